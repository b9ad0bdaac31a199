"""Records of unwind information, and the numbers in them, against sections built by hand."""

from __future__ import annotations

import struct

import pytest
from frame_sections import (
    CODE,
    FUNCTION_BYTES,
    SECTION,
    Section,
    advance,
    compiled,
    def_cfa_offset,
    sleb,
    uleb,
)
from hypothesis import given
from hypothesis import strategies as st

from leaktrace.unwind import entries
from leaktrace.unwind.cfi import MalformedCfiError, read_sleb128, read_uleb128
from leaktrace.unwind.entries import FrameSection, SectionKind, Skipped, read_functions
from leaktrace.unwind.rows import describe


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
        {"augmentation": b"zXR"},  # an unknown letter
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
