"""The account of the memory that a process takes from the kernel itself: what it maps, attaches,
and gains by moving its program break. The kernel side sends an event for each call.

What backs a mapping is in no event. So /proc/PID/maps is read soon after a call of mmap, whether
what it mapped is shared memory (of a memfd, or of a file in /dev/shm or another tmpfs), and after a
call of shmat, for the size of the segment. At most a fiftieth of the time goes into that: reading
the mappings keeps the process from changing them (mmap_lock).

Shared mappings of other files are counted with those of mmap: their pages are the page cache's. So
is shared anonymous memory. Sources: shmop(2), brk(2), memfd_create(2), tmpfs(5).
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from leaktrace.abi import process as abi
from leaktrace.memory import Backing
from leaktrace.process.region_pages import KnownPages
from leaktrace.process.regions import MappingCall, Region, RegionLedger
from leaktrace.targets.mappings import Mapping
from leaktrace.targets.memory_files import is_of_segment, is_segment, is_shared_memory
from leaktrace.targets.resident_pages import ScanBudget

_PAUSE = 50  # times as long as the last look took
_LEAST_PAUSE_S = 0.005
_MOST_BETWEEN_REPORTS = 1000  # regions


@dataclass
class RegionAccount:
    """The account of one process."""

    read_mappings: Callable[[], Sequence[Mapping]]  # none where they can't be read
    memory_devices: Callable[[], frozenset[str]]  # targets/memory_files.py
    least_bytes: int | None = None  # calls that ask for less are left out (-z)
    most_bytes: int | None = None
    mapped: RegionLedger = field(default_factory=RegionLedger)
    program_break: RegionLedger = field(default_factory=lambda: RegionLedger(page_bytes=1))
    pages: KnownPages = field(default_factory=KnownPages)
    _segments: dict[int, MappingCall] = field(default_factory=dict)  # by the address of shmat
    _unjudged: list[MappingCall] = field(default_factory=list)  # of mmap
    _unsized: dict[int, MappingCall] = field(default_factory=dict)  # of shmat, by address
    _released_last: dict[int, list[Region]] = field(default_factory=dict)  # by thread
    _detached_last: dict[int, MappingCall] = field(default_factory=dict)  # unsized; by thread
    _next_s: float = 0.0  # when another look is due
    _at_exit: tuple[Sequence[Mapping], frozenset[str]] = ((), frozenset())

    def ledger_of(self, backing: Backing) -> RegionLedger:
        """Where such memory is accounted for."""
        return self.program_break if backing is Backing.BREAK else self.mapped

    @property
    def unsized(self) -> int:
        """Attached segments of which the size is not known."""
        return len(self._unsized)

    def clear(self) -> None:
        """The process has executed a program, and has a new address space."""
        self.mapped.clear()
        self.program_break.clear()
        self.pages.forget()
        self._segments.clear()
        self._unjudged.clear()
        self._unsized.clear()
        self._released_last.clear()
        self._detached_last.clear()

    # --- events ----------------------------------------------------------------------------

    def apply(self, event: np.void) -> None:
        """Apply one region event. Events have to come in the order in which they happened."""
        address, size, tid = int(event["address"]), int(event["size"]), int(event["tid"])
        function = int(event["function"])
        match int(event["kind"]):
            case abi.EventCode.REGION_ADD:
                released = self._released_last.pop(tid, [])
                self._add(event, released if function == abi.Function.MREMAP else [])
            case abi.EventCode.REGION_RELEASE if function == abi.Function.BRK:
                self.program_break.release(address, size)
            case abi.EventCode.REGION_RELEASE:
                self._released_last.pop(tid, None)
                self._detached_last.pop(tid, None)
                released = self._release(function, address, size, tid)
                if released:
                    self._released_last[tid] = released
            case abi.EventCode.REGION_RESTORE:
                released = self._released_last.pop(tid, [])
                self.mapped.restore(released)
                for call in {id(one.call): one.call for one in released}.values():
                    self._note_segment(call)
                unsized = self._detached_last.pop(tid, None)
                if unsized is not None:
                    self._unsized[unsized.address] = unsized

    def hides(self, event: np.void) -> bool:
        """Whether a traced call is left out, because it raised the break by another size than is
        asked for."""
        is_raised = int(event["kind"]) == abi.EventCode.ALLOCATE
        is_break = int(event["function"]) == abi.Function.BRK
        return is_raised and is_break and not self._is_asked_for(int(event["size"]))

    def displace(self, event: np.void) -> None:
        """An allocator mapped memory for itself, in place of what was there."""
        is_break = int(event["function"]) == abi.Function.BRK
        ledger = self.program_break if is_break else self.mapped
        ledger.release(int(event["address"]), int(event["size"]))

    def _add(self, event: np.void, moved: Sequence[Region]) -> None:
        """`moved`: what mremap moved, if it is not new."""
        address, size, time_ns = (int(event[name]) for name in ("address", "size", "time_ns"))
        call = MappingCall(address, size, time_ns, int(event["stack_id"]))
        function = int(event["function"])
        if function == abi.Function.SHMAT:
            call.backing, call.is_counted = Backing.SYSV, False
            self._unsized[call.address] = call
        elif function == abi.Function.BRK:
            call.backing, call.is_counted = Backing.BREAK, False
            self.program_break.release(call.address, call.size_bytes)
            if self._is_asked_for(call.size_bytes):
                self.program_break.add(call)
        elif moved:
            call.backing, call.is_judged = moved[0].call.backing, moved[0].call.is_judged
            self._add_mapped(call)
        else:
            call.is_judged = False
            self._add_mapped(call)

    def _add_mapped(self, call: MappingCall) -> None:
        self.mapped.add(call)
        if not call.is_judged:
            self._unjudged.append(call)
        self._note_segment(call)

    def _note_segment(self, call: MappingCall) -> None:
        if call.backing is Backing.SYSV:
            self._segments[call.address] = call

    def _release(self, function: int, address: int, size: int, tid: int) -> list[Region]:
        if function != abi.Function.SHMDT:
            return self.mapped.release(address, size)
        unsized = self._unsized.pop(address, None)
        if unsized is not None:
            self._detached_last[tid] = unsized
        segment = self._segments.pop(address, None)
        return [] if segment is None else self.mapped.release_call(segment)

    def _is_asked_for(self, size_bytes: int) -> bool:
        least, most = self.least_bytes, self.most_bytes
        return (least is None or size_bytes >= least) and (most is None or size_bytes <= most)

    # --- looks at the mappings ---------------------------------------------------------------

    def next_look_s(self) -> float | None:
        """When `look_if_due` is due, on the clock of time.monotonic(); None: it isn't."""
        due = (self._next_s if self._unjudged or self._unsized else None, self._next_page_look_s())
        return min((one for one in due if one is not None), default=None)

    def _next_page_look_s(self) -> float | None:
        # Of many regions, only reports look at the pages: events have to be taken in meanwhile.
        count = len(self.mapped) + len(self.program_break)
        return self.pages.next_s if 0 < count <= _MOST_BETWEEN_REPORTS else None

    def look_if_due(self) -> None:
        """Find out what backs new mappings, and what is in memory, if it is time for that."""
        now_s = time.monotonic()
        if (self._unjudged or self._unsized) and self._next_s <= now_s:
            self.look()
        due_s = self._next_page_look_s()
        if due_s is not None and due_s <= now_s:
            self.look_at_pages(ScanBudget())

    def look_at_pages(self, budget: ScanBudget) -> None:
        """Find out how much of the regions is in memory."""
        ledgers = (self.mapped, self.program_break)
        self.pages.look([(one.start, one.end) for ledger in ledgers for one in ledger], budget)

    def keep(self) -> None:
        """The process is stopped before it exits: look at this when it has ended. May be called by
        another thread."""
        self._at_exit = (self.read_mappings(), self.memory_devices())
        self.pages.keep(self._at_exit[0])

    def look(self) -> None:
        """Find out what backs new mappings, and how large new segments are."""
        begun_s = time.monotonic()
        if self._unjudged:
            held = {id(region.call) for region in self.mapped}
            self._unjudged = [call for call in self._unjudged if id(call) in held]
        if self._unjudged or self._unsized:
            before_ns = time.monotonic_ns()
            mappings = self.read_mappings() or self._at_exit[0]
            if mappings:
                shared = [one for one in mappings if one.permissions.endswith("s")]
                self._judge(shared, before_ns)
                self._size(shared, before_ns)
        now_s = time.monotonic()
        self._next_s = now_s + max(_PAUSE * (now_s - begun_s), _LEAST_PAUSE_S)

    def _judge(self, shared: Sequence[Mapping], before_ns: int) -> None:
        """Take over the shared mappings. They were read when all calls up to `before_ns` had ended:
        what has been unmapped since will be gone from here, too."""
        starts = [one.start for one in shared]
        devices: frozenset[str] | None = None
        places = {id(region.call): region.start for region in self.mapped}
        for call in self._unjudged:
            if call.time_ns >= before_ns:
                continue
            at, backing = places[id(call)], Backing.MAPPED
            index = bisect_right(starts, at) - 1
            if index >= 0 and at < shared[index].end and shared[index].is_file:
                if devices is None:
                    devices = self.memory_devices() | self._at_exit[1]
                if is_of_segment(shared[index]):  # mremap has moved it before its size was known
                    backing = Backing.SYSV
                elif is_shared_memory(shared[index], devices):
                    backing = Backing.SHARED_FILE
            self.mapped.judge(call, backing)
            self._note_segment(call)
        self._unjudged = [call for call in self._unjudged if not call.is_judged]

    def _size(self, shared: Sequence[Mapping], before_ns: int) -> None:
        """Read the sizes of attached segments. Parts of them may be unmapped."""
        for call in [one for one in self._unsized.values() if one.time_ns < before_ns]:
            parts = [one for one in shared if is_segment(one, call.address)]
            del self._unsized[call.address]
            if not parts:
                continue  # all of it was unmapped since
            call.size_bytes = parts[-1].end - call.address
            if self._is_asked_for(call.size_bytes):
                self.mapped.add_parts(call, [(one.start, one.end) for one in parts])
                self._note_segment(call)
