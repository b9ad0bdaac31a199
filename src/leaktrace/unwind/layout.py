"""What goes into the BPF arrays: rows and pages of all objects of the traced processes, and their
mappings.

The kernel side reads three arrays. `rows` and `pages` hold the tables of all objects one after the
other; an object stays where it was first placed, so that walks can go on meanwhile. Processes that
map the same object share its table (unwind/placed.py). In the array of mappings, each process has
room for two lists. Each update writes a whole list in the place of the one before last;
process/kernel_tables.py then switches to it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from leaktrace.abi.process import GENERATED_CODE, TABLE_TO_COME, UNWIND_MAPPING
from leaktrace.arch.x86_64 import PAGE_BYTES
from leaktrace.errors import ObjectFileError
from leaktrace.targets.mappings import Mapping
from leaktrace.unwind.budget import OverBudgetError
from leaktrace.unwind.placed import Capacity, ListRoom, Placed, PlacedTables
from leaktrace.unwind.rows import Rows
from leaktrace.unwind.table import UnwindTable

# Addresses of user space; the walker compares by subtraction, and [vsyscall] lies above.
_ADDRESS_LIMIT = 1 << 63
_ADDRESS_MASK = (1 << 64) - 1

TableProvider = Callable[[Mapping], UnwindTable | None]
FingerprintProvider = Callable[[Mapping], int]  # unwind/fingerprint.py; 0: none


class UnwindFailure(NamedTuple):
    """An object whose code can only be unwound by frame pointers, and why."""

    path: str
    reason: str
    is_over_budget: bool = False  # it has a table, which would exceed a limit


@dataclass(frozen=True)
class Update:
    """What to write so that the kernel side knows the process as it is now.

    Write `rows` from `row_start` on and `pages` from `page_start` on, then `mappings` from
    `mapping_start` on, and switch to the new list last.
    """

    row_start: int
    rows: Rows
    page_start: int
    pages: NDArray[np.uint32]  # row numbers in the whole array
    mapping_start: int
    mappings: NDArray[Any]  # of UNWIND_MAPPING, ascending, without overlap
    known: NDArray[Any]  # of UNWIND_MAPPING: new objects; addresses relative to where they load
    failures: tuple[UnwindFailure, ...] = ()  # objects new in this update
    mappings_left_out: int = 0  # for which the list has no room


_NOTHING = Placed(0, 0, 0, 0, 0, (), 0)
_TO_COME = Placed(TABLE_TO_COME, 0, 0, 0, 0, (), 0)


def at_array_stride(pages: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """u32 values as a BPF array keeps them: each at a multiple of 8 bytes."""
    return pages.astype("<u8")


@dataclass
class UnwindLayout:
    """The contents of the BPF arrays of one process, from its first mappings to its last.

    `tables` returns the table of the object behind a mapping, None where there is no object. An
    ObjectFileError that it raises is reported, and the object has no table: permanently, unless the
    cause is that the mapping has just changed: then its table is still to come. The same applies to
    an object whose table would exceed MAX_ROWS or MAX_PAGES; the tables of objects that come after
    it are not requested. The objects that are new in an update are placed by ascending `weight`, so
    that an object that is too large takes no other one's place.
    """

    tables: TableProvider
    weight: Callable[[Mapping], int] = lambda _: 0
    fingerprints: FingerprintProvider = lambda _: 0
    shared: PlacedTables = field(default_factory=PlacedTables)
    _lists: ListRoom | None = None  # two lists
    _former: ListRoom | None = None  # of the last list, if that is elsewhere: walks may use it
    _updates: int = 0

    @property
    def needed(self) -> Capacity:
        """Entries that are in use."""
        return self.shared.needed

    def reserve(self, spare_rows: int = 1 << 20) -> Capacity:
        """As `PlacedTables.reserve`, for one process."""
        return self.shared.reserve(spare_rows)

    @property
    def longest_list(self) -> int:
        """How many mappings a list can have."""
        return self.shared.longest_list

    def close(self) -> None:
        """The process has ended: another one may use the room for its lists."""
        for room in (self._former, self._lists):
            if room is not None:
                self.shared.give_back(room)
        self._former = self._lists = None

    def update(
        self,
        mappings: Iterable[Mapping],
        unlisted: Iterable[Mapping] = (),
        present: Iterable[Mapping] | None = None,
    ) -> Update:
        """Place the objects that are new among these mappings of the process, and list the
        mappings; also place the objects of `unlisted`, which may come back.

        Every executable mapping is listed, also without a table: a pc in such a mapping is in code
        of which nothing is known, a pc in no mapping means that the list is out of date. Where the
        list has no room for all, those of `present` come first (None: all are present).
        """
        executable = _walkable(mappings)
        new = self._new_objects([*executable, *unlisted])
        return self._update([(key, one) for _, key, one in new], executable, present)

    def update_in_steps(
        self,
        mappings: Iterable[Mapping],
        unlisted: Iterable[Mapping] = (),
        present: Iterable[Mapping] | None = None,
    ) -> Iterator[Update]:
        """As `update`, but each object that has a weight is placed by an update of its own, so that
        walks need not wait for all tables until they have the first ones. Until then walks end in
        its code: its table will come."""
        executable = _walkable(mappings)
        new = self._new_objects([*executable, *unlisted])
        light = [(key, one) for weight, key, one in new if not weight]
        heavy = [(key, one) for weight, key, one in new if weight]
        if light or not heavy:
            yield self._update(light, executable, present)
        for one in heavy:
            yield self._update([one], executable, present)

    def _update(
        self,
        new: Iterable[tuple[object, Mapping]],
        executable: Sequence[Mapping],
        present: Iterable[Mapping] | None,
    ) -> Update:
        """Place these objects, and list the mappings."""
        rows: list[Rows] = []
        pages: list[NDArray[np.uint32]] = []
        failures: list[UnwindFailure] = []
        shared = self.shared
        row_start, page_start = shared.row_count, shared.page_count
        known: list[tuple[int, ...]] = []
        for key, mapping in new:
            try:
                table = self._table(mapping)
            except ObjectFileError as error:
                is_over_budget = isinstance(error, OverBudgetError)
                failures.append(UnwindFailure(mapping.path, error.message, is_over_budget))
                if _is_passing(error):
                    continue
                table = None
            placed = shared.placed[key] = self._place(table, mapping) if table else _NOTHING
            if table:
                known += shared.new_known(placed)
                rows.append(table.rows)
                pages.append(table.pages + np.uint32(placed.row_lo))
        entries: list[tuple[int, ...]] = []
        for mapping in executable:
            key = self._object_key(mapping)
            is_to_come = key is not None and key not in shared.placed
            placed = _TO_COME if is_to_come else shared.placed.get(key, _NOTHING)
            _append(entries, _entry(mapping, placed))
        listed, left_out = self._cut(entries, executable if present is None else present)
        shared.listed = len(listed)
        start = self._next_list_start()
        return Update(
            row_start=row_start,
            rows=np.concatenate([np.empty(0, np.uint64), *rows]),
            page_start=page_start,
            pages=np.concatenate([np.empty(0, np.uint32), *pages]),
            mapping_start=start,
            mappings=np.array(listed, dtype=UNWIND_MAPPING),
            known=np.array(known, dtype=UNWIND_MAPPING),
            failures=tuple(failures),
            mappings_left_out=left_out,
        )

    def _new_objects(self, mappings: Sequence[Mapping]) -> list[tuple[int, object, Mapping]]:
        """Each object that isn't placed yet, with its weight and one of its mappings; the lightest
        first."""
        new: dict[object, Mapping] = {}
        for mapping in mappings:
            key = self._object_key(mapping)
            if key is not None and key not in self.shared.placed:
                new.setdefault(key, mapping)
        weighed = [(self.weight(mapping), key, mapping) for key, mapping in new.items()]
        return sorted(weighed, key=lambda one: one[0])

    def _table(self, mapping: Mapping) -> UnwindTable | None:
        table = None if self.shared.is_full else self.tables(mapping)
        self.shared.require_room(table, mapping.path)
        return table

    def _object_key(self, mapping: Mapping) -> object:
        """What identifies an object, also after its file was written over; None where a mapping can
        have no object."""
        if mapping.is_file:
            return mapping.device, mapping.inode, mapping.path, self.fingerprints(mapping)
        return mapping.path if mapping.path == "[vdso]" else None

    def _place(self, table: UnwindTable, mapping: Mapping) -> Placed:
        return self.shared.place(table, self.fingerprints(mapping))

    def _cut(
        self, entries: Sequence[tuple[int, ...]], present: Iterable[Mapping]
    ) -> tuple[list[tuple[int, ...]], int]:
        """As many entries as a list has room for, and how many are left out: first those that are
        not present, then those without a table."""
        room = self._room_for(len(entries))
        excess = len(entries) - room
        if excess <= 0:
            return list(entries), 0
        starts = sorted(mapping.start for mapping in present if mapping.is_executable)

        def order(entry: tuple[int, ...]) -> tuple[bool, bool]:
            start, end, *_ = entry
            is_present = bisect_left(starts, start) < bisect_left(starts, end)
            return not is_present, entry[6] == 0  # page_count

        return sorted(sorted(entries, key=order)[:room]), excess

    def _room_for(self, count: int) -> int:
        """Make room for a list of this length. Returns how long it may be."""
        if self._former is not None:
            self.shared.give_back(self._former)
            self._former = None
        if self._lists is None or self._lists.length < count:
            taken = self.shared.take_lists(count)
            if taken is not None and (self._lists is None or taken.length > self._lists.length):
                self._former, self._lists = self._lists, taken
            elif taken is not None:  # no longer than what there is
                self.shared.give_back(taken)
        return 0 if self._lists is None else self._lists.length

    def _next_list_start(self) -> int:
        self._updates += 1
        if self._lists is None:
            return 0
        return self._lists.start + self._lists.length * ((self._updates - 1) % 2)


def _walkable(mappings: Iterable[Mapping]) -> list[Mapping]:
    """Those that hold code, by ascending address."""
    return [
        mapping
        for mapping in sorted(mappings, key=lambda mapping: mapping.start)
        if mapping.is_executable and mapping.end <= _ADDRESS_LIMIT
    ]


def _is_passing(error: ObjectFileError) -> bool:
    """Whether the mapping was gone when its file was opened: the next update tries again."""
    return isinstance(error.__cause__, FileNotFoundError | ProcessLookupError)


def _entry(mapping: Mapping, placed: Placed) -> tuple[int, ...]:
    """A mapping as the walker reads it."""
    for segment in placed.segments:
        # The kernel maps whole pages, so a mapping begins where the segment's first page does.
        first_page = segment.offset - segment.offset % PAGE_BYTES
        if first_page <= mapping.offset < segment.offset + segment.size:
            vaddr = segment.vaddr - segment.offset + mapping.offset  # of the mapping's first byte
            bias = (mapping.start - vaddr + placed.base) & _ADDRESS_MASK
            return mapping.start, mapping.end, bias, *placed[:4], placed.fingerprint
    if not mapping.is_file:
        return mapping.start, mapping.end, 0, GENERATED_CODE, 0, 0, 0, 0
    return mapping.start, mapping.end, 0, *(placed if placed is _TO_COME else _NOTHING)[:4], 0


def _append(entries: list[tuple[int, ...]], entry: tuple[int, ...]) -> None:
    """Append an entry, or extend the last one if it ends where this one begins and is the same
    otherwise."""
    if entries and entries[-1][1] == entry[0] and entries[-1][2:] == entry[2:]:
        entries[-1] = (entries[-1][0], *entry[1:])
    else:
        entries.append(entry)
