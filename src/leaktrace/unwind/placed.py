"""Where the unwind tables of objects are in the BPF arrays, and which part of the array of mappings
each process has. All traced processes share the arrays.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from leaktrace.abi.process import MAX_LISTED_MAPPINGS
from leaktrace.arch.x86_64 import PAGE_BYTES
from leaktrace.unwind.budget import OverBudgetError
from leaktrace.unwind.table import CodeSegment, UnwindTable

MAX_KNOWN_OBJECTS = 4096  # objects that are recognized when they are loaded again
_MIN_ROWS = 1 << 16
_MIN_PAGES = 1 << 14
# A single file can claim millions, and a hostile process can map many files. libLLVM has a million
# rows, and half a million pages.
MAX_ROWS = 16 << 20  # 128 MiB of kernel memory
MAX_PAGES = 16 << 20  # 128 MiB; 4 GiB of code
# The first list of each process, where there are several: most have fewer executable mappings.
_FEW_LISTED = 256
_MEAN_LISTED = 256


class Capacity(NamedTuple):
    """Entries of the BPF arrays. `mappings` is for two lists, the one in use and the next, of each
    process."""

    rows: int
    pages: int
    mappings: int


class Placed(NamedTuple):
    """Where an object's table is in the arrays."""

    row_lo: int
    row_hi: int
    page_lo: int
    page_count: int
    base: int
    segments: tuple[CodeSegment, ...]
    fingerprint: int


class ListRoom(NamedTuple):
    """Two lists of mappings, one after the other."""

    start: int
    length: int  # of one


@dataclass
class PlacedTables:
    """The tables of all objects, by what identifies an object, and the rooms for lists."""

    processes: int = 1  # there is room for the lists of so many
    capacity: Capacity | None = None  # None: as much as needed; see `reserve`
    longest_list: int = MAX_LISTED_MAPPINGS
    placed: dict[object, Placed] = field(default_factory=dict)
    row_count: int = 0
    page_count: int = 0
    is_full: bool = False
    listed: int = 0  # mappings in the last list
    _fingerprints: set[int] = field(default_factory=set)
    _free: list[tuple[int, int]] = field(init=False)  # ranges of the array of mappings

    def __post_init__(self) -> None:
        self._free = [(0, self.mapping_room)]

    @property
    def mapping_room(self) -> int:
        """Entries of the array of mappings."""
        more = 2 * _MEAN_LISTED * self.processes if self.processes > 1 else 0
        return 2 * self.longest_list + more

    @property
    def needed(self) -> Capacity:
        """Entries that are in use."""
        return Capacity(self.row_count, self.page_count, 2 * self.listed)

    def reserve(self, spare_rows: int = 1 << 20) -> Capacity:
        """Fix the capacity: what is needed now, and room for objects that are loaded later.

        Spare pages are in proportion (three rows per page is dense code). A row takes 8 bytes, and
        so does a page.
        """
        self.capacity = Capacity(
            rows=min(max(self.row_count + spare_rows, _MIN_ROWS), MAX_ROWS),
            pages=min(max(self.page_count + spare_rows // 3, _MIN_PAGES), MAX_PAGES),
            mappings=self.mapping_room,
        )
        return self.capacity

    # --- tables ----------------------------------------------------------------------------

    def require_room(self, table: UnwindTable | None, path: str) -> None:
        """Raises OverBudgetError if there is no room for this table."""
        if self.is_full or (table and not self._fits(table, Capacity(MAX_ROWS, MAX_PAGES, 0))):
            self.is_full = True
            raise OverBudgetError(
                f"the tables of a process may have {MAX_ROWS:,} rows and {MAX_PAGES:,} pages, "
                "and this or another object needs more"
            )
        if table and self.capacity and not self._fits(table, self.capacity):
            raise OverBudgetError(
                f"no room for the {len(table.rows):,} rows of {path} among {self.capacity.rows:,}"
            )

    def _fits(self, table: UnwindTable, capacity: Capacity) -> bool:
        return (
            self.row_count + len(table.rows) <= capacity.rows
            and self.page_count + len(table.pages) <= capacity.pages
        )

    def place(self, table: UnwindTable, fingerprint: int) -> Placed:
        """Take room for a table."""
        placed = Placed(
            row_lo=self.row_count,
            row_hi=self.row_count + len(table.rows),
            page_lo=self.page_count,
            page_count=table.page_count,
            base=table.base,
            segments=table.segments,
            fingerprint=fingerprint,
        )
        self.row_count += len(table.rows)
        self.page_count += len(table.pages)
        return placed

    def new_known(self, placed: Placed) -> list[tuple[int, ...]]:
        """The entry by which an object is recognized when it is loaded again: requires a
        fingerprint and exactly one segment of code."""
        is_new = placed.fingerprint and placed.fingerprint not in self._fingerprints
        if not is_new or len(placed.segments) != 1 or len(self._fingerprints) >= MAX_KNOWN_OBJECTS:
            return []
        self._fingerprints.add(placed.fingerprint)
        (segment,) = placed.segments
        start = segment.vaddr - segment.vaddr % PAGE_BYTES
        end = -(-(segment.vaddr + segment.size) // PAGE_BYTES) * PAGE_BYTES
        return [(start, end, placed.base, *placed[:4], placed.fingerprint)]

    # --- lists -----------------------------------------------------------------------------

    def take_lists(self, count: int) -> ListRoom | None:
        """Room for two lists of at least this many mappings, as far as a list may be so long. Where
        others have taken it, room for shorter ones; None where there is none."""
        length = self.longest_list if self.processes == 1 else _FEW_LISTED
        while length < min(count, self.longest_list):
            length *= 2
        length = min(length, self.longest_list)
        while length:
            for index, (start, size) in enumerate(self._free):
                if size >= 2 * length:
                    self._free[index] = (start + 2 * length, size - 2 * length)
                    return ListRoom(start, length)
            length //= 2
        return None

    def give_back(self, room: ListRoom) -> None:
        """The room of these lists is free again."""
        ranges: list[tuple[int, int]] = []
        for start, size in sorted([*self._free, (room.start, 2 * room.length)]):
            if ranges and sum(ranges[-1]) == start:
                ranges[-1] = (ranges[-1][0], ranges[-1][1] + size)
            elif size:
                ranges.append((start, size))
        self._free = ranges
