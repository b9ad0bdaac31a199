"""Rows, the page index, and tables of invalid objects."""

from __future__ import annotations

import bisect
import struct
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from harness.length import repetitions
from hypothesis import given, settings
from hypothesis import strategies as st

from leaktrace.abi.process import Rule, SavedRbp
from leaktrace.elf.object import ElfObject
from leaktrace.errors import ObjectFileError
from leaktrace.unwind.entries import FrameSection, SectionKind
from leaktrace.unwind.rows import (
    CFA_OFFSET_MAX,
    CFA_OFFSET_MIN,
    PC_SHIFT,
    Row,
    describe,
    pack,
    unpack,
    unpack_all,
)
from leaktrace.unwind.table import (
    MAX_EXTENT_BYTES,
    PAGE_SHIFT,
    CodeSegment,
    UnwindSource,
    compile_object,
    compile_source,
    index_rows,
    read_source,
)

BASE = 0x400000
SECTION = BASE + 0x100000

UNSCALED_RULES = [Rule.RULE_PLT, Rule.RULE_NONE, Rule.RULE_END]
SCALED_RULES = [rule for rule in Rule if rule not in UNSCALED_RULES]
SOME_ROWS = st.builds(
    Row,
    pc=st.integers(0, (1 << 32) - 1),
    rule=st.sampled_from(SCALED_RULES),
    cfa_offset=st.integers(CFA_OFFSET_MIN // 8, CFA_OFFSET_MAX // 8).map(lambda n: n * 8),
    saved_rbp=st.integers(0, 255),
) | st.builds(
    Row,
    pc=st.integers(0, (1 << 32) - 1),
    rule=st.sampled_from(UNSCALED_RULES),
    cfa_offset=st.integers(-0x8000, 0x7FFF),
    saved_rbp=st.integers(0, 255),
)


def source(section: bytes = b"", *, segments: tuple[CodeSegment, ...] = ()) -> UnwindSource:
    return UnwindSource(
        shown="made by hand",
        sections=(FrameSection(SectionKind.EH_FRAME, section, SECTION),),
        base=BASE,
        segments=segments or (CodeSegment(0x1000, BASE + 0x1000, 0x10000),),
    )


def eh_frame(*functions: tuple[int, int, int], address: int = SECTION) -> bytes:
    """A section with functions given as (address, bytes, CFA offset)."""
    cie = bytes.fromhex("01 7a5200 01 78 10 01 1b 0c0708 9001") + bytes(2)
    data = struct.pack("<II", len(cie) + 4, 0) + cie
    for begin, size, offset in functions:
        assert offset < 0x80
        at = len(data)
        pc = begin - (address + at + 8)
        body = struct.pack("<IiIB", at + 4, pc, size, 0) + bytes([0x0E, offset, 0])
        data += struct.pack("<I", len(body)) + body
    return data + bytes(4)


# -- rows -----------------------------------------------------------------------------------------


def test_layout_is_the_one_the_kernel_side_knows() -> None:
    row = pack(Row(pc=0x1234, rule=Rule.RULE_RBP, cfa_offset=-16, saved_rbp=3))
    assert row == 0x00001234_03_02_FFFE
    # Beyond 256 KB the upper bits of the rule's byte count: 0x10000 * 8 bytes each.
    far = pack(Row(pc=0, rule=Rule.RULE_RSP, cfa_offset=524352, saved_rbp=5))
    assert far == 0x05_09_0008
    assert pack(Row(0, Rule.RULE_RSP, 0x7FFF * 8, 0)) == 0x01_7FFF
    assert pack(Row(0, Rule.RULE_RSP, 0x8000 * 8, 0)) == 0x09_8000
    assert pack(Row(0, Rule.RULE_RSP, CFA_OFFSET_MAX, 0)) == 0xF9_7FFF
    assert [rule.value for rule in Rule] == list(range(8))
    assert (SavedRbp.UNCHANGED, SavedRbp.LOST, SavedRbp.AT_RBP) == (0, 254, 255)


@given(SOME_ROWS)
def test_unpack_undoes_pack(row: Row) -> None:
    assert unpack(pack(row)) == row
    columns = unpack_all(np.array([pack(row)], dtype=np.uint64))
    assert tuple(int(column[0]) for column in columns) == tuple(map(int, row))
    assert describe(pack(row)).startswith(f"{row.pc:#x}: ")


@pytest.mark.parametrize(
    "row",
    [
        Row(1 << 32, Rule.RULE_RSP, 8, 0),
        Row(-1, Rule.RULE_RSP, 8, 0),
        Row(0, Rule.RULE_RSP, 12, 0),
        Row(0, Rule.RULE_RSP, CFA_OFFSET_MAX + 8, 0),
        Row(0, Rule.RULE_RSP, CFA_OFFSET_MIN - 8, 0),
        Row(0, Rule.RULE_RSP, 8, 256),
        Row(0, Rule.RULE_PLT, 1 << 15, 0),
    ],
)
def test_what_does_not_fit_is_refused(row: Row) -> None:
    with pytest.raises(ValueError, match=r"row|field"):
        pack(row)


# -- tables ---------------------------------------------------------------------------------------


@given(st.sets(st.integers(0, 0x3000), min_size=1, max_size=300), st.lists(st.integers(0, 0x3500)))
def test_the_page_index_leads_to_the_row_in_force(pcs: set[int], wanted: list[int]) -> None:
    ordered = sorted(pcs)
    rows = np.array([pack(Row(pc, Rule.RULE_RSP, 8 * i, 0)) for i, pc in enumerate(ordered)])
    table = index_rows(source(), rows.astype(np.uint64), {})
    assert len(table.pages) == table.page_count + 1 == (ordered[-1] >> PAGE_SHIFT) + 2
    for rel in [*ordered, *wanted]:
        index = bisect.bisect_right(ordered, rel) - 1
        page = rel >> PAGE_SHIFT
        if page < table.page_count:
            first, last = int(table.pages[page]), int(table.pages[page + 1])
            assert max(first - 1, -1) <= index < last or (index, first) == (-1, 0)
            assert last - first + 1 <= (1 << PAGE_SHIFT) + 1
            expected = unpack(int(rows[index])) if index >= 0 else None
            assert table.lookup(BASE + rel) == expected
        else:
            assert table.lookup(BASE + rel) is None


def test_functions_are_sorted_and_gaps_end_them() -> None:
    data = eh_frame((BASE + 0x3000, 0x10, 24), (BASE + 0x2000, 0x10, 16), (BASE + 0x2010, 8, 16))
    table = compile_source(source(data))
    assert [describe(row) for row in table.rows.tolist()] == [
        "0x2000: CFA = rsp+16",  # and so is the function right behind it
        "0x2018: no rule (no entry)",
        "0x3000: CFA = rsp+24",
        "0x3010: no rule (no entry)",
    ]
    assert table.lookup(BASE + 0x1FFF) is None
    assert table.lookup(BASE - 1) is None
    found = table.lookup(BASE + 0x300F)
    assert found and found.cfa_offset == 24


def test_where_functions_overlap_the_later_address_wins() -> None:
    data = eh_frame((BASE + 0x2000, 0x100, 16), (BASE + 0x2010, 0x10, 24))
    assert [describe(row) for row in compile_source(source(data)).rows.tolist()] == [
        "0x2000: CFA = rsp+16",
        "0x2010: CFA = rsp+24",
        "0x2020: no rule (no entry)",
    ]


def test_functions_outside_the_code_are_counted() -> None:
    data = eh_frame(
        (BASE + 0x2000, 0x100, 16),
        (BASE + 0x500, 0x100, 16),  # before the segment
        (BASE + 0x11000, 0x100, 16),  # behind it
        (BASE + 0x10FF0, 0x100, 24),  # across its end
    )
    table = compile_source(source(data))
    assert [describe(row) for row in table.rows.tolist()][-2:] == [
        "0x10ff0: CFA = rsp+24",
        "0x11000: no rule (no entry)",
    ]
    assert table.skipped == {"address outside the object's code": 2}


def test_a_function_that_the_linker_discarded_is_not_at_address_0() -> None:
    whole = (CodeSegment(0, 0, 0x10000),)  # the ELF header is in the executable segment
    data = eh_frame((0, 0x100, 16), (0x2000, 0x100, 24), address=0x20000)
    sections = (FrameSection(SectionKind.EH_FRAME, data, 0x20000),)
    table = compile_source(replace(source(segments=whole), sections=sections, base=0))
    assert table.lookup(0x10) is None
    assert describe(int(table.rows[0])) == "0x2000: CFA = rsp+24"


def test_eh_frame_wins_over_debug_frame() -> None:
    both = replace(
        source(),
        sections=(
            FrameSection(SectionKind.EH_FRAME, eh_frame((BASE + 0x2000, 0x100, 16)), SECTION),
            FrameSection(
                SectionKind.EH_FRAME,
                eh_frame((BASE + 0x2010, 0x10, 24), (BASE + 0x2100, 0x10, 32)),
                SECTION,
            ),
        ),
    )
    assert [describe(row) for row in compile_source(both).rows.tolist()] == [
        "0x2000: CFA = rsp+16",
        "0x2100: CFA = rsp+32",
        "0x2110: no rule (no entry)",
    ]


def test_code_spread_over_more_than_two_gigabytes_makes_no_giant_index() -> None:
    far = BASE + (1 << 40)
    segments = (CodeSegment(0x1000, BASE + 0x1000, 0x10000), CodeSegment(0x20000, far, 0x1000))
    # The distance doesn't fit sdata4: take the section there.
    data = eh_frame((far, 0x100, 16), address=far + 0x1000)
    sections = (
        FrameSection(SectionKind.EH_FRAME, eh_frame((BASE + 0x2000, 0x100, 16)), SECTION),
        FrameSection(SectionKind.EH_FRAME, data, far + 0x1000),
    )
    table = compile_source(replace(source(segments=segments), sections=sections))
    assert table.page_count == 0x22
    assert table.skipped == {"address outside the object's code": 1}


@pytest.mark.parametrize("data", [b"", bytes(4), bytes(100), b"\xff" * 100, eh_frame()])
def test_no_function_at_all_is_an_error(data: bytes) -> None:
    with pytest.raises(ObjectFileError, match="no unwind information") as caught:
        compile_source(source(data))
    assert caught.value.hint


def test_digest_covers_everything_the_table_depends_on() -> None:
    data = eh_frame((BASE + 0x2000, 0x100, 16))
    first = source(data)
    moved = FrameSection(SectionKind.EH_FRAME, data, SECTION + 8)
    others = [
        source(data[:-1]),
        source(data, segments=(CodeSegment(0x1000, BASE + 0x1000, 0x10001),)),
        replace(first, base=BASE - 0x1000),
        replace(first, sections=(moved,)),
        replace(first, sections=(*first.sections, *first.sections)),
        replace(first, sections=(replace(moved, kind=SectionKind.DEBUG_FRAME),)),
    ]
    assert len({first.digest, *(other.digest for other in others)}) == 1 + len(others)
    assert first.digest == source(data).digest == replace(first, shown="other name").digest


# -- objects --------------------------------------------------------------------------------------


OWN_EXECUTABLE = Path(sys.executable).resolve().read_bytes()


def own_executable() -> bytearray:
    return bytearray(OWN_EXECUTABLE)


def test_another_machine_is_refused() -> None:
    image = own_executable()
    image[18:20] = struct.pack("<H", 183)  # e_machine: aarch64
    with (
        ElfObject.from_bytes(bytes(image), "other") as elf,
        pytest.raises(ObjectFileError, match="EM_AARCH64"),
    ):
        compile_object(elf)


def test_an_object_without_code_is_refused() -> None:
    image = own_executable()
    (headers,) = struct.unpack_from("<Q", image, 32)
    size, count = struct.unpack_from("<HH", image, 54)
    for i in range(count):
        at = headers + i * size + 4  # p_flags
        image[at] &= ~1
    with (
        ElfObject.from_bytes(bytes(image), "data") as elf,
        pytest.raises(ObjectFileError, match="no executable segment"),
    ):
        compile_object(elf)


@settings(max_examples=repetitions(80, 400), deadline=None)
@given(st.lists(st.tuples(st.integers(0, 64 + 14 * 56), st.binary(max_size=8)), max_size=4))
def test_headers_with_any_bytes_changed(changes: list[tuple[int, bytes]]) -> None:
    """ELF header and program headers: an error of ours, or a consistent table."""
    image = bytearray(OWN_EXECUTABLE)
    for at, replacement in changes:
        image[at : at + len(replacement)] = replacement
    try:
        with ElfObject.from_bytes(bytes(image), "changed") as elf:
            table = compile_object(elf)
    except ObjectFileError:
        return
    assert table.pages[-1] == len(table.rows)
    assert table.page_count <= MAX_EXTENT_BYTES >> PAGE_SHIFT
    assert table.inexpressible is not None


def test_an_object_far_outside_of_user_space_is_refused() -> None:
    image = own_executable()
    (headers,) = struct.unpack_from("<Q", image, 32)
    size, count = struct.unpack_from("<HH", image, 54)
    for i in range(count):
        at = headers + i * size + 16  # p_vaddr
        (vaddr,) = struct.unpack_from("<Q", image, at)
        struct.pack_into("<Q", image, at, vaddr + (1 << 63))
    with (
        ElfObject.from_bytes(bytes(image), "far") as elf,
        pytest.raises(ObjectFileError, match="can't be loaded"),
    ):
        compile_object(elf)


@pytest.mark.parametrize("kept", [0, 1, 4, 8])
def test_a_damaged_frame_header_is_not_followed(kept: int) -> None:
    """Without section headers everything depends on .eh_frame_hdr."""
    image = own_executable()
    with ElfObject.from_bytes(bytes(image), "whole") as elf:
        header = elf.eh_frame_header()
    assert header
    image[40:48] = bytes(8)  # e_shoff
    image[60:64] = bytes(4)
    image[header.offset + kept : header.offset + 8] = b"\x55" * (8 - kept)
    with ElfObject.from_bytes(bytes(image), "damaged") as elf:
        if kept == 8:
            assert read_source(elf).sections
        else:
            with pytest.raises(ObjectFileError, match="no unwind information"):
                compile_object(elf)


def test_rows_of_a_real_object_are_relative_to_its_lowest_segment() -> None:
    with ElfObject.open(Path(sys.executable).resolve()) as elf:
        table = compile_object(elf)
        assert table.base == min(segment.vaddr for segment in elf.load_segments)
    code_begins = table.segments[0].vaddr - table.base
    code_ends = max(s.vaddr + s.size for s in table.segments) - table.base
    pcs = table.rows >> np.uint64(PC_SHIFT)
    assert code_begins <= int(pcs[0])
    assert int(pcs[-1]) <= code_ends
