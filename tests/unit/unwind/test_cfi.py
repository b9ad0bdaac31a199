"""Call frame information made by hand, one rule and one defect at a time."""

from __future__ import annotations

import pytest
from frame_sections import (
    ABI,
    CODE,
    FUNCTION_BYTES,
    PLT_EXPRESSION,
    R10,
    RBP,
    RBX,
    REMEMBER,
    RESTORE_STATE,
    RIP,
    RSP,
    Section,
    advance,
    breg,
    compiled,
    def_cfa,
    def_cfa_expression,
    def_cfa_offset,
    expression_of,
    offset_of,
    sleb,
    uleb,
)

from leaktrace.unwind.rows import CFA_OFFSET_MAX, describe


def def_cfa_register(register: int) -> bytes:
    return b"\x0d" + uleb(register)


DEREF = b"\x06"


def rows_of(code: bytes, initial: bytes = ABI) -> list[str]:
    """What a function with these instructions compiles to, without the row that ends it."""
    section = Section()
    section.fde(section.cie(initial), code)
    described = [describe(row) for row in compiled(section.end().frames).rows.tolist()]
    if not described[-1].endswith("no rule (no entry)"):
        raise AssertionError(described)
    return described[:-1]


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
    """libgcrypt's assembly does so, and gdb, binutils and libgcc understand it so."""
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
