"""The contents of the BPF arrays, walked here as the kernel side walks them."""

from __future__ import annotations

import os
from collections.abc import Mapping as MappingOf
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unwind_walker import Arrays

from leaktrace.abi.process import TABLE_TO_COME, UNWIND_MAPPING, Rule
from leaktrace.elf.object import ElfObject
from leaktrace.errors import ObjectFileError
from leaktrace.process import table_follower as follow
from leaktrace.process.kernel_tables import Moment
from leaktrace.targets.mappings import Mapping, read_mappings
from leaktrace.unwind import placed as install
from leaktrace.unwind import process_tables as process
from leaktrace.unwind.budget import TableBudget
from leaktrace.unwind.cache import TableCache
from leaktrace.unwind.entries import FrameSection, SectionKind
from leaktrace.unwind.fingerprint import FINGERPRINT_BYTES, fingerprint
from leaktrace.unwind.layout import UnwindLayout, at_array_stride
from leaktrace.unwind.placed import Capacity, PlacedTables
from leaktrace.unwind.process_tables import ProcessTables
from leaktrace.unwind.rows import Row, pack
from leaktrace.unwind.table import CodeSegment, UnwindSource, UnwindTable, index_rows

PAGE = 4096


def table(
    pcs: list[int], *, base: int = 0, segments: tuple[CodeSegment, ...] | None = None
) -> UnwindTable:
    """A table whose rows differ by their CFA offset."""
    code = segments or (CodeSegment(PAGE, base + PAGE, 64 * PAGE),)
    source = UnwindSource("made by hand", (FrameSection(SectionKind.EH_FRAME, b"", 0),), base, code)
    rows = [pack(Row(pc, Rule.RULE_RSP, 8 * i, 0)) for i, pc in enumerate(pcs)]
    return index_rows(source, np.array(rows, dtype=np.uint64), {})


def mapping(
    start: int,
    pages: int,
    *,
    offset: int = PAGE,
    path: str = "/lib/one.so",
    inode: int = 1,
    permissions: str = "r-xp",
) -> Mapping:
    return Mapping(start, start + pages * PAGE, permissions, offset, "08:01", inode, path)


def layout_of(tables: MappingOf[str, UnwindTable | ObjectFileError]) -> UnwindLayout:
    def provide(mapping: Mapping) -> UnwindTable | None:
        found = tables.get(mapping.path)
        if isinstance(found, ObjectFileError):
            raise found
        return found

    return UnwindLayout(provide)


def test_pages_lie_eight_bytes_apart() -> None:
    assert at_array_stride(np.array([1, 0xFFFFFFFF], np.uint32)).tobytes() == (
        b"\1\0\0\0\0\0\0\0\xff\xff\xff\xff\0\0\0\0"
    )


def test_bias_of_an_object_that_is_not_loaded_at_its_own_address() -> None:
    # readelf -l of a program linked at 0x400000: segment at file offset 0x1000, vaddr 0x401000
    layout = layout_of({"/bin/prog": table([0x1000, 0x1010], base=0x400000)})
    update = layout.update([mapping(0x401000, 4, path="/bin/prog")])
    assert int(update.mappings[0]["bias"]) == 0x400000
    # and of a shared object whose second mapping begins inside the segment
    layout = layout_of({"/lib/one.so": table([0x1000, 0x3010])})
    update = layout.update([mapping(0x7F0000003000, 1, offset=3 * PAGE)])
    assert int(update.mappings[0]["bias"]) == 0x7F0000000000


def test_bias_of_a_segment_whose_address_and_offset_differ() -> None:
    """lld: p_offset 0x11c0, p_vaddr 0x31c0. The kernel maps from the start of the page."""
    segments = (CodeSegment(0x11C0, 0x31C0, 0x2000),)
    layout = layout_of({"/lib/one.so": table([0x31C0, 0x31D0], segments=segments)})
    arrays = Arrays()
    arrays.write(layout.update([mapping(0x7F0000003000, 3, offset=PAGE)]))
    row = arrays.find_row(0x7F00000031D4)
    assert row
    assert row.pc == 0x31D0
    assert arrays.find_row(0x7F00000031BF) is None


@st.composite
def processes(draw: st.DrawFn) -> tuple[list[Mapping], dict[str, UnwindTable]]:
    tables: dict[str, UnwindTable] = {}
    mappings: list[Mapping] = []
    address = 0x10000
    for number in range(draw(st.integers(1, 5))):
        path = f"/lib/{number}.so"
        base = draw(st.sampled_from([0, 0x400000]))
        skew = draw(st.sampled_from([0, PAGE]))  # between file offset and address
        pages = draw(st.integers(1, 4))
        code = CodeSegment(PAGE, base + PAGE + skew, pages * PAGE)
        low = PAGE + skew
        pcs = draw(st.sets(st.integers(low, low + pages * PAGE - 1), min_size=1, max_size=40))
        tables[path] = table(sorted(pcs), base=base, segments=(code,))
        address += draw(st.integers(0, 3)) * PAGE
        for page in range(pages):  # page by page: they must be put together again
            mappings.append(
                mapping(address, 1, offset=(1 + page) * PAGE, path=path, inode=number + 1)
            )
            address += PAGE
        if draw(st.booleans()):
            mappings.append(mapping(address, 2, offset=0, path="", inode=0))  # JIT code
            address += 2 * PAGE
    return mappings, tables


def expected_row(
    ip: int, mappings: list[Mapping], tables: dict[str, UnwindTable]
) -> tuple[bool, Row | None]:
    """(in a mapping, row) by the object's own table, without any of the arrays."""
    for one in mappings:
        if one.start <= ip < one.end:
            found = tables.get(one.path)
            if found is None:
                return True, None
            segment = found.segments[0]
            return True, found.lookup(ip - one.start + one.offset - segment.offset + segment.vaddr)
    return False, None


@settings(max_examples=60, deadline=None)
@given(processes(), st.data())
def test_the_walkers_search_agrees_with_each_objects_table(
    process: tuple[list[Mapping], dict[str, UnwindTable]], data: st.DataObject
) -> None:
    mappings, tables = process
    layout, arrays = layout_of(tables), Arrays()
    # Some objects are there from the beginning, the others are loaded later.
    first = data.draw(st.integers(0, len(mappings)))
    for known in (mappings[:first], mappings):
        arrays.write(layout.update(known))
        ips = {known_mapping.start for known_mapping in known}
        ips |= {known_mapping.end - 1 for known_mapping in known}
        ips |= set(data.draw(st.lists(st.integers(0x10000 - 1, mappings[-1].end), max_size=50)))
        for ip in ips:
            is_known, row = expected_row(ip, known, tables)
            assert (arrays.find_mapping(ip) is not None) == is_known
            assert arrays.find_row(ip) == row


def test_a_real_process(tmp_path: Path) -> None:
    """Our own: every executable mapping is listed, and rows are those of the object's table."""
    pid = os.getpid()
    mappings = read_mappings(pid)
    provider = ProcessTables(pid, TableCache(tmp_path))
    try:
        tables = {one: provider(one) for one in mappings if one.is_executable and one.is_file}
        layout = UnwindLayout(provider)
        update = layout.update(mappings)
    except ObjectFileError as error:
        if "can't be opened" in error.message:
            pytest.skip(f"needs CAP_CHECKPOINT_RESTORE: {error.message}")
        raise
    size = layout.reserve()
    arrays = Arrays(np.zeros(size.rows, np.uint64), np.zeros(size.pages, np.uint64))
    arrays.write(update)
    assert not update.failures
    checked = 0
    for one, found in tables.items():
        assert found
        for rel in range(0, one.end - one.start, 4093):
            segment = next(
                s
                for s in found.segments
                if s.offset - s.offset % PAGE <= one.offset < s.offset + s.size
            )
            vaddr = one.offset + rel - segment.offset + segment.vaddr
            assert arrays.find_row(one.start + rel) == found.lookup(vaddr)
            checked += 1
    assert checked > 100
    (vdso,) = [one for one in mappings if one.path == "[vdso]"]
    assert any(arrays.find_row(ip) for ip in range(vdso.start, vdso.end, 16))
    vsyscall = [one for one in mappings if one.path == "[vsyscall]"]
    assert all(arrays.find_mapping(one.start) is None for one in vsyscall)


def test_what_was_placed_stays_when_objects_come_and_go() -> None:
    one, two = mapping(0x10000, 4), mapping(0x80000, 4, path="/lib/two.so", inode=2)
    tables = {one.path: table([0x1000, 0x1100, 0x1300]), two.path: table([0x1000, 0x1010])}
    layout = layout_of(tables)
    first = layout.update([one])
    second = layout.update([one, two])
    assert (first.row_start, len(first.rows)) == (0, 3)
    assert (second.row_start, second.rows.tolist()) == (3, tables[two.path].rows.tolist())
    assert second.page_start == len(first.pages)
    assert int(second.pages.min()) == 3  # row numbers count from the beginning of the array
    assert first.mappings[0] == second.mappings[0]
    assert second.mapping_start != first.mapping_start
    gone = layout.update([two])
    back = layout.update([one, two])
    assert not gone.rows.size and not back.rows.size and not back.pages.size
    assert back.mappings.tolist() == second.mappings.tolist()
    assert gone.mapping_start == first.mapping_start


def test_neighbours_of_one_object_become_one_entry() -> None:
    layout = layout_of({"/lib/one.so": table([0x1000])})
    update = layout.update(
        [
            mapping(0x11000, 1, offset=2 * PAGE),
            mapping(0x10000, 1, offset=PAGE),
            mapping(0x12000, 1, offset=5 * PAGE),  # not where it belongs: another bias
            mapping(0x20000, 1, path="", inode=0, offset=0),
            mapping(0x21000, 1, path="", inode=0, offset=0),
            mapping(0x30000, 1, permissions="rw-p"),
        ]
    )
    assert [(int(m["start"]), int(m["end"])) for m in update.mappings] == [
        (0x10000, 0x12000),
        (0x12000, 0x13000),
        (0x20000, 0x22000),
    ]
    assert update.mappings[2]["page_count"] == 0


def test_an_object_that_fails_is_named_once_and_still_listed() -> None:
    layout = layout_of({"/lib/one.so": ObjectFileError("/lib/one.so is damaged")})
    first = layout.update([mapping(0x10000, 4)])
    assert [tuple(failure) for failure in first.failures] == [
        ("/lib/one.so", "/lib/one.so is damaged", False)
    ]
    assert first.mappings[0]["page_count"] == 0
    second = layout.update([mapping(0x10000, 4)])
    assert second.failures == ()
    assert len(second.mappings) == 1


def test_an_object_whose_mapping_changed_meanwhile_is_tried_again() -> None:
    answers: list[UnwindTable | OSError] = [
        FileNotFoundError(2, "No such file or directory"),
        table([0x1000]),
    ]

    def provide(mapping: Mapping) -> UnwindTable:
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise ObjectFileError(f"{mapping.path} can't be opened") from answer
        return answer

    layout = UnwindLayout(provide)
    first = layout.update([mapping(0x10000, 4)])
    assert (len(first.failures), len(first.mappings), len(first.rows)) == (1, 1, 0)
    assert (first.mappings[0]["row_lo"], first.mappings[0]["page_count"]) == (TABLE_TO_COME, 0)
    second = layout.update([mapping(0x10000, 4)])
    assert (len(second.failures), len(second.rows)) == (0, 1)
    assert second.mappings[0]["page_count"] > 0


def test_small_objects_do_not_wait_for_large_ones() -> None:
    """Before its table is there, a large object is listed as one whose table will come."""
    sizes = {"/lib/one.so": 0, "/lib/two.so": 7, "/lib/three.so": 0, "/lib/four.so": 3}
    tables = {path: table([0x1000 + size]) for path, size in sizes.items()}
    asked: list[str] = []

    def provide(mapping: Mapping) -> UnwindTable:
        asked.append(mapping.path)
        return tables[mapping.path]

    layout = UnwindLayout(provide, weight=lambda mapping: sizes[mapping.path])
    mappings = [
        mapping(0x10000 * number, 4, path=path, inode=number)
        for number, path in enumerate(sizes, 1)
    ]
    arrays, steps = Arrays(), []
    for update in layout.update_in_steps(mappings):
        arrays.write(update)
        found = [arrays.find_mapping(one.start) for one in mappings]
        steps.append((len(asked), [int(one["page_count"]) > 0 for one in found if one]))
        for has_table, one in zip(steps[-1][1], found, strict=True):
            assert one is not None
            assert has_table or one["row_lo"] == TABLE_TO_COME
    assert steps == [
        (2, [True, False, True, False]),
        (3, [True, False, True, True]),
        (4, [True, True, True, True]),
    ]
    assert len(list(layout.update_in_steps(mappings))) == 1  # nothing is new


def test_capacity_is_kept() -> None:
    tables = {"/lib/one.so": table([0x1000]), "/lib/two.so": table(list(range(0x1000, 0x1400)))}
    two = mapping(0x80000, 4, path="/lib/two.so", inode=2)
    layout = layout_of(tables)
    layout.update([mapping(0x10000, 4)])
    assert layout.needed == Capacity(rows=1, pages=len(tables["/lib/one.so"].pages), mappings=2)
    reserved = layout.reserve(spare_rows=100)
    assert reserved.rows >= 101
    layout.shared.capacity = Capacity(rows=101, pages=1000, mappings=8)
    update = layout.update([mapping(0x10000, 4), two])
    (failure,) = update.failures
    assert (failure.path, "no room" in failure.reason) == ("/lib/two.so", True)
    assert not update.rows.size
    assert layout.needed.rows == 1
    assert update.mappings[1]["page_count"] == 0


@pytest.mark.parametrize("bound", ["MAX_ROWS", "MAX_PAGES"])
def test_many_large_objects_are_bounded_together(
    bound: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = table(list(range(0x1000, 0x1400)))
    each = {"MAX_ROWS": len(large.rows), "MAX_PAGES": len(large.pages)}[bound]
    monkeypatch.setattr(install, bound, 3 * each)
    asked: list[str] = []

    def provide(mapping: Mapping) -> UnwindTable:
        asked.append(mapping.path)
        return large

    layout = UnwindLayout(provide)
    mappings = [
        mapping(0x10000 * i, 4, path=f"/lib/{i}.so", inode=i)
        for i in range(1, 51)  # as a hostile process maps them
    ]
    update = layout.update(mappings)
    assert [failure.path for failure in update.failures] == [m.path for m in mappings[3:]]
    assert f"{3 * each:,} {'rows' if bound == 'MAX_ROWS' else 'pages'}" in update.failures[0].reason
    assert asked == [f"/lib/{i}.so" for i in range(1, 5)]  # what can't be placed isn't compiled
    assert len(update.rows) == 3 * len(large.rows)
    assert len(update.mappings) == 50
    reserved = layout.reserve()
    assert getattr(reserved, "rows" if bound == "MAX_ROWS" else "pages") == 3 * each
    again = layout.update(mappings)
    assert (again.failures, len(again.rows), len(asked)) == ((), 0, 4)


def test_the_room_for_a_command_is_bounded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(install, "MAX_ROWS", 1000)
    monkeypatch.setattr(follow, "MAX_ROWS", 1000)
    libc = next(m.path for m in read_mappings(os.getpid()) if "/libc" in m.path)
    built: list[str] = []

    class Cache(TableCache):
        def table_for(self, elf: ElfObject, budget: TableBudget | None = None) -> UnwindTable:
            built.append(elf.shown)
            return super().table_for(elf, budget)

    monkeypatch.setattr(follow, "TableCache", Cache)
    follower = follow.TableFollower(os.getpid(), TableBudget())
    assert follower.plan_files([libc] * 50).rows == 1000
    assert built == [libc]  # the rows of the others aren't compiled


def test_too_many_mappings_leave_out_code_nothing_is_known_of() -> None:
    layout = layout_of({"/lib/one.so": table([0x1000])})
    layout.shared = PlacedTables(longest_list=4)
    jit = [mapping(0x100000 + 2 * PAGE * i, 1, path="", inode=0, offset=0) for i in range(9)]
    update = layout.update([*jit, mapping(0x900000, 4)])
    assert update.mappings_left_out == 6
    assert len(update.mappings) == 4
    assert int(update.mappings[3]["start"]) == 0x900000
    assert update.mappings[3]["page_count"] > 0
    assert layout.update(jit[:1]).mapping_start == 4


def test_too_many_mappings_leave_out_code_that_is_gone_first() -> None:
    layout = layout_of({"/lib/one.so": table([0x1000])})
    layout.shared = PlacedTables(longest_list=4)
    gone = [mapping(0x900000 + 8 * PAGE * i, 4) for i in range(4)]
    present = [mapping(0x100000 + 2 * PAGE * i, 1, path="", inode=0, offset=0) for i in range(3)]
    update = layout.update([*gone, *present], present=present)
    assert update.mappings_left_out == 3
    starts = update.mappings["start"].tolist()
    assert starts[:3] == [one.start for one in present]
    assert starts[3] in [one.start for one in gone]  # with a table, in the room that is left


def test_mappings_without_room_are_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(follow, "MAX_LISTED_MAPPINGS", 4)
    jit = [mapping(0x100000 + 2 * PAGE * i, 1, path="", inode=0, offset=0) for i in range(5)]
    shared = PlacedTables(longest_list=4)
    follower = follow.TableFollower(os.getpid(), TableBudget(), shared=shared)
    follower.plan(jit[:4])
    assert list(follower.left_out()) == []
    follower.follow(jit, Moment())
    (note,) = follower.left_out()
    assert "more than 4 executable mappings" in note
    follower.follow(jit[:4], Moment())
    assert list(follower.left_out()) == [note]  # stacks of that time are in the report


def test_fingerprints_are_computed_again_only_when_the_file_has_changed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    computed: list[int] = []

    def counted(elf: ElfObject) -> int:
        computed.append(fingerprint(elf))
        return computed[-1]

    monkeypatch.setattr(process, "fingerprint", counted)
    path = tmp_path / "libc.so"
    path.write_bytes(
        Path(next(m.path for m in read_mappings(os.getpid()) if "/libc" in m.path)).read_bytes()
    )
    with ElfObject.open(path) as elf:
        tables = ProcessTables(os.getpid(), TableCache(None), open_objects=lambda _: elf)
        one = mapping(PAGE, 1)
        first = tables.fingerprint(one)
        assert first != 0
        assert [tables.fingerprint(one) for _ in range(3)] == [first] * 3
        assert computed == [first]
        with path.open("r+b") as file:  # behind the build ID, before the end of what is hashed
            file.seek(FINGERPRINT_BYTES - 1)
            file.write(b"\xa5")
        assert tables.fingerprint(one) != first
        assert len(computed) == 2


def test_a_process_without_executable_mappings() -> None:
    update = layout_of({}).update([])
    assert update.rows.dtype == np.uint64
    assert update.pages.dtype == np.uint32
    assert update.mappings.dtype == UNWIND_MAPPING
    assert not len(update.rows) and not len(update.pages) and not len(update.mappings)
