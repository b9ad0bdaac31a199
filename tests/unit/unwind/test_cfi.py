"""Call frame information made by hand, one rule and one way of being broken at a time."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leaktrace.errors import ObjectFileError
from leaktrace.unwind import entries
from leaktrace.unwind.cfi import MalformedCfiError, read_sleb128, read_uleb128
from leaktrace.unwind.entries import FrameSection, SectionKind, Skipped, read_functions
from leaktrace.unwind.rows import CFA_OFFSET_MAX, describe
from leaktrace.unwind.table import CodeSegment, UnwindSource, UnwindTable, compile_source

RBX, RBP, RSP, R10, RIP = 3, 6, 7, 10, 16
BASE = 0x400000
CODE = BASE + 0x1000
SECTION = BASE + 0x9000
FUNCTION_BYTES = 0x100


def uleb(value: int) -> bytes:
    out = bytearray()
    while True:
        byte, value = value & 0x7F, value >> 7
        out.append(byte | (0x80 if value else 0))
        if not value:
            return bytes(out)


def sleb(value: int) -> bytes:
    out = bytearray()
    while True:
        byte, value = value & 0x7F, value >> 7
        if value == (-1 if byte & 0x40 else 0):
            return bytes([*out, byte])
        out.append(byte | 0x80)


# Call frame instructions. Offsets are factored by -8 where DWARF says so.
def advance(delta: int) -> bytes:
    return bytes([0x40 | delta])


def def_cfa(register: int, offset: int) -> bytes:
    return b"\x0c" + uleb(register) + uleb(offset)


def def_cfa_offset(offset: int) -> bytes:
    return b"\x0e" + uleb(offset)


def def_cfa_register(register: int) -> bytes:
    return b"\x0d" + uleb(register)


def def_cfa_expression(expression: bytes) -> bytes:
    return b"\x0f" + uleb(len(expression)) + expression


def offset_of(register: int, factored: int) -> bytes:
    return bytes([0x80 | register]) + uleb(factored)


def expression_of(register: int, expression: bytes) -> bytes:
    return b"\x10" + uleb(register) + uleb(len(expression)) + expression


def breg(register: int, offset: int) -> bytes:
    return bytes([0x70 + register]) + sleb(offset)


DEREF = b"\x06"
REMEMBER, RESTORE_STATE = b"\x0a", b"\x0b"
ABI = def_cfa(RSP, 8) + offset_of(RIP, 1)  # how every function begins
PLT_EXPRESSION = bytes.fromhex("7708 8000 3f1a 3b 2a 33 24 22")  # lit11


class Section:
    """Records of a frame section, one behind the other."""

    def __init__(self, kind: SectionKind = SectionKind.EH_FRAME, *, extended: int = 0) -> None:
        self.kind = kind
        self.extended = extended  # 0: 32-bit lengths, else bytes of the CIE id
        self.data = bytearray()

    def _record(self, identifier: int, body: bytes) -> int:
        at = len(self.data)
        size = self.extended or 4
        content = identifier.to_bytes(size, "little") + body
        if self.extended:
            self.data += struct.pack("<IQ", 0xFFFFFFFF, len(content)) + content
        else:
            self.data += struct.pack("<I", len(content)) + content
        return at

    def cie(
        self,
        initial: bytes = ABI,
        *,
        version: int = 1,
        augmentation: bytes = b"zR",
        augmentation_data: bytes | None = b"\x1b",
        return_register: int = RIP,
        code_alignment: int = 1,
        data_alignment: int = -8,
        extra: bytes = b"",
    ) -> int:
        """Appends a CIE; returns its offset."""
        is_eh = self.kind is SectionKind.EH_FRAME
        identifier = 0 if is_eh else (1 << 8 * (self.extended or 4)) - 1
        body = bytes([version]) + augmentation + b"\0" + extra
        body += uleb(code_alignment) + sleb(data_alignment)
        body += bytes([return_register]) if version == 1 else uleb(return_register)
        if augmentation.startswith(b"z"):
            data = augmentation_data or b""
            body += uleb(len(data)) + data
        return self._record(identifier, body + initial)

    def fde(
        self,
        cie: int,
        code: bytes = b"",
        *,
        begin: int = CODE,
        size: int = FUNCTION_BYTES,
        encoding: int = 0x1B,
        augmentation_data: bytes | None = b"",
    ) -> int:
        """Appends a FDE; returns its offset."""
        body_at = len(self.data) + (12 if self.extended else 4)
        pointer_at = body_at + (self.extended or 4)
        identifier = body_at - cie if self.kind is SectionKind.EH_FRAME else cie
        relative = begin - (SECTION + pointer_at) if encoding & 0x70 == 0x10 else begin
        body = encode(encoding, relative) + encode(encoding & 0x0F, size)
        if augmentation_data is not None:
            body += uleb(len(augmentation_data)) + augmentation_data
        return self._record(identifier, body + code)

    def end(self) -> Section:
        self.data += bytes(4)
        return self

    @property
    def frames(self) -> FrameSection:
        return FrameSection(self.kind, bytes(self.data), SECTION)


def encode(encoding: int, value: int) -> bytes:
    match encoding & 0x0F:
        case 0x01:
            return uleb(value)
        case 0x09:
            return sleb(value)
        case form:
            size = {0x00: 8, 0x02: 2, 0x03: 4, 0x04: 8, 0x0A: 2, 0x0B: 4, 0x0C: 8}[form]
            return (value % (1 << 8 * size)).to_bytes(size, "little")


def compiled(*sections: FrameSection, code_bytes: int = 0x8000) -> UnwindTable:
    source = UnwindSource(
        shown="made by hand",
        sections=sections,
        base=BASE,
        segments=(CodeSegment(CODE - BASE, CODE, code_bytes),),
    )
    return compile_source(source)


def rows_of(code: bytes, initial: bytes = ABI) -> list[str]:
    """What a function with these instructions compiles to, without the row that ends it."""
    section = Section()
    section.fde(section.cie(initial), code)
    described = [describe(row) for row in compiled(section.end().frames).rows.tolist()]
    if not described[-1].endswith("no rule (no entry)"):
        raise AssertionError(described)
    return described[:-1]


# -- rules ----------------------------------------------------------------------------------------


def test_function_without_instructions() -> None:
    assert rows_of(b"") == ["0x1000: CFA = rsp+8"]


def test_frame_pointer_prologue_and_epilogue() -> None:
    code = (
        advance(1)
        + def_cfa_offset(16)
        + offset_of(RBP, 2)
        + advance(3)
        + def_cfa_register(RBP)
        + advance(20)
        + def_cfa(RSP, 8)
    )
    assert rows_of(code) == [
        "0x1000: CFA = rsp+8",
        "0x1001: CFA = rsp+16, rbp at CFA-16",
        "0x1004: CFA = rbp+16, rbp at CFA-16",
        # rbp stays where the CFI leaves it; compilers say DW_CFA_restore where it matters
        "0x1018: CFA = rsp+8, rbp at CFA-16",
    ]


def test_remember_and_restore_cover_cfa_rbp_and_return_address() -> None:
    code = (
        REMEMBER
        + advance(1)
        + def_cfa(RBP, 32)
        + offset_of(RBP, 4)
        + b"\x07\x10"  # DW_CFA_undefined rip
        + advance(1)
        + RESTORE_STATE
    )
    assert rows_of(code) == [
        "0x1000: CFA = rsp+8",
        "0x1001: outermost frame",
        "0x1002: CFA = rsp+8",
    ]


def test_a_register_after_an_expression_has_the_offset_from_before() -> None:
    """So does libgcrypt's assembly, and so understand it gdb, binutils and libgcc."""
    code = (
        def_cfa_offset(56)
        + def_cfa_expression(breg(RSP, 536) + DEREF)
        + REMEMBER
        + advance(1)
        + def_cfa_register(RSP)
        + advance(1)
        + def_cfa_offset(64)
        + RESTORE_STATE
        + advance(1)
        + def_cfa_register(RBP)
    )
    assert rows_of(code) == [
        "0x1000: CFA = *(rsp+536)",
        "0x1001: CFA = rsp+56",
        "0x1002: CFA = *(rsp+536)",
        "0x1003: CFA = rbp+56",
    ]


def test_an_outermost_frame_can_be_remembered_too() -> None:
    code = b"\x07\x10" + REMEMBER + advance(1) + offset_of(RIP, 1) + advance(1) + RESTORE_STATE
    assert rows_of(code) == [
        "0x1000: outermost frame",
        "0x1001: CFA = rsp+8",
        "0x1002: outermost frame",
    ]


def test_restore_goes_back_to_the_initial_rules() -> None:
    code = (
        offset_of(RBP, 2)
        + advance(1)
        + bytes([0xC0 | RBP])  # DW_CFA_restore
        + offset_of(RIP, 2)
        + advance(1)
        + b"\x06\x10"  # DW_CFA_restore_extended rip
    )
    assert rows_of(code) == [
        "0x1000: CFA = rsp+8, rbp at CFA-16",
        "0x1001: no rule (return address)",
        "0x1002: CFA = rsp+8",
    ]


@pytest.mark.parametrize(
    ("instruction", "delta"),
    [
        (b"\x02\x90", 0x90),
        (b"\x03\x90\x00", 0x90),
        (b"\x04\x90\x00\x00\x00", 0x90),
        (advance(0x3F), 0x3F),
    ],
)
def test_every_way_to_advance(instruction: bytes, delta: int) -> None:
    assert rows_of(instruction + def_cfa_offset(24)) == [
        "0x1000: CFA = rsp+8",
        f"{0x1000 + delta:#x}: CFA = rsp+24",
    ]


def test_code_alignment_scales_advances() -> None:
    section = Section()
    cie = section.cie(code_alignment=4)
    section.fde(cie, advance(2) + def_cfa_offset(16))
    assert [describe(row) for row in compiled(section.frames).rows.tolist()][1] == (
        "0x1008: CFA = rsp+16"
    )


@pytest.mark.parametrize(
    ("instruction", "expected"),
    [
        (b"\x05\x06\x03", "rbp at CFA-24"),  # DW_CFA_offset_extended
        (b"\x11\x06\x03", "rbp at CFA-24"),  # DW_CFA_offset_extended_sf
        (b"\x2f\x06" + uleb(3), "rbp lost"),  # DW_CFA_GNU_negative_offset_extended: CFA + 24
        (offset_of(RBP, 253), "rbp at CFA-2024"),
        (offset_of(RBP, 254), "rbp lost"),  # the byte has other meanings from here on
        (offset_of(RBP, 0), "rbp lost"),  # at the CFA itself: the caller's frame
        (b"\x11\x06" + sleb(-2), "rbp lost"),  # above the CFA
        (b"\x07\x06", "rbp lost"),  # DW_CFA_undefined
        (b"\x09\x06\x03", "rbp lost"),  # DW_CFA_register: in rbx
        (b"\x14\x06\x02", "rbp lost"),  # DW_CFA_val_offset
        (b"\x15\x06\x02", "rbp lost"),  # DW_CFA_val_offset_sf
        (b"\x16\x06\x02" + breg(RBP, 0), "rbp lost"),  # DW_CFA_val_expression
        (expression_of(RBP, breg(RBP, 0)), "rbp at *(rbp)"),
        (expression_of(RBP, breg(RBP, -8)), "rbp lost"),
        (expression_of(RBP, breg(RSP, 120)), "rbp lost"),  # a signal frame has more to it
        (expression_of(RBP, b""), "rbp lost"),
    ],
)
def test_where_rbp_was_saved(instruction: bytes, expected: str) -> None:
    assert rows_of(instruction) == [f"0x1000: CFA = rsp+8, {expected}"]


def test_same_value_takes_back_that_rbp_was_saved() -> None:
    assert rows_of(offset_of(RBP, 2) + b"\x08\x06") == ["0x1000: CFA = rsp+8"]


def test_other_registers_make_no_rows() -> None:
    code = advance(1) + offset_of(RBX, 3) + advance(1) + b"\x09\x03\x08" + advance(1) + b"\x2e\x10"
    assert rows_of(code) == ["0x1000: CFA = rsp+8"]


@pytest.mark.parametrize(
    ("instruction", "expected"),
    [
        (def_cfa(RBP, 16), "CFA = rbp+16"),
        (b"\x12\x07" + sleb(-3), "CFA = rsp+24"),  # DW_CFA_def_cfa_sf, factored
        (b"\x13" + sleb(-4), "CFA = rsp+32"),  # DW_CFA_def_cfa_offset_sf
        (b"\x13" + sleb(2), "CFA = rsp-16"),
        (def_cfa_offset(0x7FFF * 8), "CFA = rsp+262136"),
        (def_cfa_offset(524352), "CFA = rsp+524352"),  # redis has such a function
        (def_cfa_offset(CFA_OFFSET_MAX), f"CFA = rsp+{CFA_OFFSET_MAX}"),
        (def_cfa_offset(CFA_OFFSET_MAX + 8), "no rule (cfa offset)"),
        (b"\x13" + sleb(0x8000), "CFA = rsp-262144"),
        (b"\x13" + sleb(0x8001), "no rule (cfa offset)"),
        (def_cfa_offset(12), "no rule (cfa offset)"),
        (def_cfa(R10, 0), "no rule (cfa register)"),
        (def_cfa_expression(PLT_EXPRESSION), "CFA = rsp+8, rsp+16 from byte 11 of a PLT entry on"),
        (def_cfa_expression(breg(RBP, -8) + DEREF), "CFA = *(rbp-8)"),
        (def_cfa_expression(breg(RSP, 160) + DEREF), "CFA = *(rsp+160)"),
        (def_cfa_expression(breg(RSP, 152) + DEREF + b"\x23\x08"), "no rule (cfa expression)"),
        (def_cfa_expression(breg(R10, 0) + DEREF), "no rule (cfa expression)"),
        (def_cfa_expression(b""), "no rule (cfa expression)"),
        (def_cfa_expression(b"\x77\x80"), "no rule (cfa expression)"),  # LEB128 cut off
        (b"\x07\x10", "outermost frame"),
        (b"\x08\x10", "no rule (return address)"),
        (b"\x09\x10\x03", "no rule (return address)"),
        (b"\x14\x10\x02", "no rule (return address)"),
        (offset_of(RIP, 2), "no rule (return address)"),
        (b"\x05\x10\x02", "no rule (return address)"),
        (expression_of(RIP, breg(RSP, 168)), "no rule (return address)"),
    ],
)
def test_where_the_frame_and_the_return_address_are(instruction: bytes, expected: str) -> None:
    assert rows_of(instruction) == [f"0x1000: {expected}"]


def test_signal_frame() -> None:
    """glibc's __restore_rt: everything comes from the ucontext that rsp points at."""
    code = (
        def_cfa_expression(breg(RSP, 160) + DEREF)
        + expression_of(8, breg(RSP, 40))
        + expression_of(RBP, breg(RSP, 120))
        + expression_of(RIP, breg(RSP, 168))
    )
    section = Section()
    cie = section.cie(b"", augmentation=b"zRS")
    section.fde(cie, code)
    assert describe(int(compiled(section.frames).rows[0])) == "0x1000: signal frame"


def test_without_a_rule_for_the_return_address_there_is_none() -> None:
    assert rows_of(b"", initial=def_cfa(RSP, 8)) == ["0x1000: no rule (return address)"]


# -- what can't be decoded ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code",
    [
        b"\x01" + bytes(8),  # DW_CFA_set_loc
        b"\x3f",  # not defined
        b"\x2d",  # DW_CFA_GNU_window_save: another machine's
        b"\x0e",  # operands missing
        b"\x0e\x80",
        b"\x02",
        b"\x03\x01",
        b"\x04\x01\x01\x01",
        b"\x0c\x07",
        b"\x0f\x05\x77",
        b"\x10\x06",
        b"\x0e" + b"\x80" * 10 + b"\x01",  # LEB128 of more than 64 bits
        b"\x0e" + b"\x80" * 100_000,
        RESTORE_STATE,  # nothing was remembered
        REMEMBER * 65,
        b"\x04\xff\xff\xff\xff" * 3,  # leads out of the address space
        b"\0" * (1 << 20) + b"\0",  # longer than any program
    ],
)
def test_malformed_instructions_leave_a_function_without_rule(code: bytes) -> None:
    section = Section()
    cie = section.cie()
    section.fde(cie, code)
    section.fde(cie, def_cfa_offset(16), begin=CODE + FUNCTION_BYTES)
    table = compiled(section.frames)
    assert [describe(row) for row in table.rows.tolist()] == [
        "0x1000: no rule (malformed)",
        "0x1100: CFA = rsp+16",
        "0x1200: no rule (no entry)",
    ]
    assert table.inexpressible == {"malformed": 1}


def test_an_advance_beyond_the_function_is_cut() -> None:
    section = Section()
    cie = section.cie()
    section.fde(cie, b"\x04\xff\xff\xff\x7f" + def_cfa_offset(16))
    section.fde(cie, begin=CODE + 2 * FUNCTION_BYTES)
    assert [describe(row) for row in compiled(section.frames).rows.tolist()] == [
        "0x1000: CFA = rsp+8",
        "0x1100: no rule (no entry)",
        "0x1200: CFA = rsp+8",
        "0x1300: no rule (no entry)",
    ]


def test_state_is_remembered_64_deep() -> None:
    assert rows_of(REMEMBER * 64 + RESTORE_STATE * 64) == ["0x1000: CFA = rsp+8"]


# -- records --------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", [0x00, 0x01, 0x03, 0x04, 0x0B, 0x0C, 0x09])
@pytest.mark.parametrize("relative", [0x00, 0x10])
def test_pointer_encodings(encoding: int, relative: int) -> None:
    only_forwards = relative == 0x10 and encoding in (0x01, 0x03)  # unsigned and narrow
    begin = SECTION + 0x2000 if only_forwards else CODE
    section = Section()
    cie = section.cie(augmentation_data=bytes([encoding | relative]))
    section.fde(cie, begin=begin, encoding=encoding | relative)
    functions = read_functions(section.frames)
    assert (list(functions.begins), list(functions.sizes)) == ([begin], [FUNCTION_BYTES])
    assert not functions.skipped


def test_two_byte_pointers() -> None:
    section = Section()
    cie = section.cie(augmentation_data=b"\x1a")  # pcrel sdata2
    section.fde(cie, begin=SECTION - 0x1000, encoding=0x1A)
    assert list(read_functions(section.frames).begins) == [SECTION - 0x1000]


@pytest.mark.parametrize("encoding", [0xFF, 0x9B, 0x2B, 0x3B, 0x4B, 0x50, 0x1D])
def test_pointers_that_need_the_running_process_are_skipped(encoding: int) -> None:
    section = Section()
    cie = section.cie(augmentation_data=bytes([encoding]))
    section.fde(cie)
    section.fde(section.cie(), begin=CODE + FUNCTION_BYTES)
    functions = read_functions(section.frames)
    assert list(functions.begins) == [CODE + FUNCTION_BYTES]
    assert functions.skipped == {Skipped.UNKNOWN_CIE: 1}


def test_augmentation_with_personality_and_lsda() -> None:
    section = Section()
    data = b"\x9b" + bytes(4) + b"\x1b" + b"\x1b"  # P: indirect pcrel sdata4; L; R
    cie = section.cie(augmentation=b"zPLR", augmentation_data=data)
    section.fde(cie, def_cfa_offset(64), augmentation_data=bytes(4))
    assert describe(int(compiled(section.frames).rows[0])) == "0x1000: CFA = rsp+64"


@pytest.mark.parametrize(
    "broken",
    [
        {"version": 9},
        {"augmentation": b"zXR"},  # a letter that nobody knows
        {"augmentation": b"mystery"},  # without a length
        {"augmentation_data": b""},  # R without its byte
        {"augmentation": b"z" + b"S" * 100},
        {"initial": b"\x0b"},  # initial instructions that can't be decoded
        {"initial": b"\x0e"},
    ],
)
def test_functions_of_a_broken_cie_are_counted(broken: dict[str, object]) -> None:
    section = Section()
    cie = section.cie(**broken)  # type: ignore[arg-type]
    section.fde(cie)
    section.fde(cie)
    functions = read_functions(section.frames)
    assert not functions.begins
    assert functions.skipped == {Skipped.UNKNOWN_CIE: 2}


def test_fde_that_points_nowhere() -> None:
    section = Section()
    section.cie()
    section.data += struct.pack("<IIii", 12, 0x1000, 0, 1)  # CIE pointer before the section
    assert read_functions(section.frames).skipped == {Skipped.UNKNOWN_CIE: 1}


def test_records_after_the_terminator_are_not_read() -> None:
    section = Section()
    cie = section.cie()
    section.fde(cie)
    section.end()
    section.fde(cie, begin=CODE + 0x200)
    assert list(read_functions(section.frames).begins) == [CODE]


def test_truncated_section_keeps_what_is_whole() -> None:
    section = Section()
    cie = section.cie()
    section.fde(cie)
    whole = len(section.data)
    section.fde(cie, begin=CODE + 0x200)
    for size in range(whole + 8, len(section.data)):
        functions = read_functions(FrameSection(section.kind, bytes(section.data[:size]), SECTION))
        assert list(functions.begins) == [CODE]
        assert functions.skipped == {Skipped.TRUNCATED: 1}


@pytest.mark.parametrize("id_bytes", [4, 8])
def test_64_bit_eh_frame(id_bytes: int) -> None:
    """The LSB says that the CIE id has four bytes, binutils reads eight: both are understood."""
    section = Section(extended=id_bytes)
    cie = section.cie()
    section.fde(cie, def_cfa_offset(32))
    section.fde(cie, begin=CODE + 0x200)
    assert [describe(row) for row in compiled(section.frames).rows.tolist()] == [
        "0x1000: CFA = rsp+32",
        "0x1100: no rule (no entry)",
        "0x1200: CFA = rsp+8",
        "0x1300: no rule (no entry)",
    ]


@pytest.mark.parametrize("extended", [0, 8])
@pytest.mark.parametrize(("version", "extra"), [(1, b""), (3, b""), (4, b"\x08\x00")])
def test_debug_frame(version: int, extra: bytes, extended: int) -> None:
    section = Section(SectionKind.DEBUG_FRAME, extended=extended)
    section.fde(0x1000, begin=CODE + 0x200, encoding=0, augmentation_data=None)
    cie = section.cie(version=version, extra=extra, augmentation=b"")
    section.fde(cie, def_cfa_offset(32), encoding=0, augmentation_data=None)
    functions = read_functions(section.frames)
    assert list(functions.begins) == [CODE]
    assert functions.skipped == {Skipped.UNKNOWN_CIE: 1}


def test_debug_frame_with_the_cie_behind_its_fde() -> None:
    section = Section(SectionKind.DEBUG_FRAME)
    section.fde(28, encoding=0, augmentation_data=None)
    assert len(section.data) == 24
    section.data += bytes(4)  # padding of the linker
    assert section.cie(augmentation=b"") == 28
    assert list(read_functions(section.frames).begins) == [CODE]


@pytest.mark.parametrize(("limit", "value"), [("MAX_FUNCTIONS", 3), ("MAX_ROWS", 6)])
def test_no_more_than_a_table_may_have(
    limit: str, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entries, limit, value)
    section = Section()
    cie = section.cie()
    for number in range(5):
        code = advance(1) + def_cfa_offset(16)
        section.fde(cie, code, begin=CODE + FUNCTION_BYTES * number)
    functions = read_functions(section.frames)
    assert len(functions.begins) == 3
    assert functions.skipped == {Skipped.TOO_MANY: 1}


def test_debug_frame_with_segments_is_not_understood() -> None:
    section = Section(SectionKind.DEBUG_FRAME)
    cie = section.cie(version=4, extra=b"\x08\x04", augmentation=b"")
    section.fde(cie, encoding=0, augmentation_data=None)
    assert read_functions(section.frames).skipped == {Skipped.UNKNOWN_CIE: 1}


# -- numbers --------------------------------------------------------------------------------------


@given(st.integers(0, (1 << 64) - 1))
def test_uleb128(value: int) -> None:
    assert read_uleb128(b"?" + uleb(value) + b"\xff", 1) == (value, 1 + len(uleb(value)))


@given(st.integers(-(1 << 63), (1 << 63) - 1))
def test_sleb128(value: int) -> None:
    assert read_sleb128(sleb(value), 0) == (value, len(sleb(value)))


def test_leb128_has_an_end() -> None:
    with pytest.raises(MalformedCfiError):
        read_uleb128(b"\x80" * 11, 0)
    with pytest.raises(IndexError):
        read_uleb128(b"\x80", 0)


# -- whatever the bytes ---------------------------------------------------------------------------


def plausible_sections() -> Iterator[Section]:
    """A little of everything, to be damaged."""
    prologue = advance(1) + def_cfa_offset(16) + offset_of(RBP, 2) + advance(3) + def_cfa(RBP, 16)
    for section in (Section(), Section(extended=4), Section(extended=8)):
        cie = section.cie()
        section.fde(cie, prologue + REMEMBER + advance(9) + RESTORE_STATE)
        section.fde(cie, def_cfa_expression(PLT_EXPRESSION), begin=CODE + 0x200)
        other = section.cie(augmentation=b"zPLR", augmentation_data=b"\x9b\0\0\0\0\x1b\x1b")
        section.fde(other, b"\x07\x10", begin=CODE + 0x400, augmentation_data=bytes(4))
        yield section.end()
    for extended in (0, 8):
        section = Section(SectionKind.DEBUG_FRAME, extended=extended)
        cie = section.cie(augmentation=b"")
        section.fde(cie, prologue, encoding=0, augmentation_data=None)
        code = expression_of(RBP, breg(RBP, 0))
        section.fde(cie, code, begin=CODE + 0x200, encoding=0, augmentation_data=None)
        yield section


CORPUS = [section.frames for section in plausible_sections()]


def check_sound(section: FrameSection) -> None:
    """Compiling either says that there is nothing, or yields a table that holds together."""
    try:
        table = compiled(section)
    except ObjectFileError:
        return
    pcs = [row >> 32 for row in table.rows.tolist()]
    assert pcs == sorted(set(pcs))
    assert pcs[0] >= CODE - BASE
    assert pcs[-1] <= SECTION - BASE
    assert table.pages[-1] == len(table.rows)
    assert table.pages.tolist() == sorted(table.pages.tolist())
    assert len(table.rows) <= len(section.data) + 16
    assert [describe(row) for row in table.rows.tolist()]


def test_corpus_is_sound_to_begin_with() -> None:
    for section in CORPUS:
        assert len(compiled(section).rows) >= 4
        check_sound(section)


@pytest.mark.parametrize("section", CORPUS, ids=range(len(CORPUS)))
def test_every_byte_damaged_in_turn(section: FrameSection) -> None:
    for at in range(len(section.data)):
        for value in (0x00, 0x7F, 0x80, 0xFF, section.data[at] ^ 1):
            data = bytearray(section.data)
            data[at] = value
            check_sound(FrameSection(section.kind, bytes(data), section.address))


@pytest.mark.parametrize("section", CORPUS, ids=range(len(CORPUS)))
def test_cut_at_every_byte(section: FrameSection) -> None:
    for size in range(len(section.data)):
        check_sound(FrameSection(section.kind, section.data[:size], section.address))


@settings(max_examples=300, deadline=None)
@given(
    section=st.sampled_from(CORPUS),
    changes=st.lists(st.tuples(st.integers(0, 400), st.binary(max_size=6)), max_size=6),
    address=st.sampled_from([SECTION, 0, (1 << 63) - 1, (1 << 64) - 1]),
)
def test_any_bytes_changed(
    section: FrameSection, changes: list[tuple[int, bytes]], address: int
) -> None:
    data = bytearray(section.data)
    for at, replacement in changes:
        data[at % len(data) : at % len(data) + len(replacement)] = replacement
    check_sound(FrameSection(section.kind, bytes(data), address))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_instructions(code: bytes) -> None:
    section = Section()
    section.fde(section.cie(), code)
    check_sound(section.end().frames)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), st.sampled_from(SectionKind))
def test_any_section(data: bytes, kind: SectionKind) -> None:
    check_sound(FrameSection(kind, data, SECTION))
