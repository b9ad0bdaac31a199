"""Looks for lost blocks of the traced processes, for reports (--lost)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leaktrace import units
from leaktrace.analysis.block_classes import BlockClass, Reach
from leaktrace.analysis.snapshot import Snapshot
from leaktrace.errors import LeaktraceError
from leaktrace.heap.live import expected_pause_ms
from leaktrace.heap.older import JudgedHeap
from leaktrace.memory import Backing
from leaktrace.model import Report
from leaktrace.options import Limits
from leaktrace.own.oom import first_victim
from leaktrace.process.background import in_background
from leaktrace.process.held_blocks import AskedHolders, HeldBlocks
from leaktrace.process.instant_scan import scan_instant
from leaktrace.process.losses import describe_losses
from leaktrace.process.member import Member
from leaktrace.process.older_blocks import OlderBlocksReports
from leaktrace.process.other_memory import regions_of
from leaktrace.process.registers import RegisterReader
from leaktrace.process.scan import PASSES, AbandonedError, Scan, scan
from leaktrace.process.snapshot import blocks_among, blocks_of
from leaktrace.process.traced import Traced
from leaktrace.process.tracer import Tracer
from leaktrace.reach import ReachInfo
from leaktrace.roots.module_data import FileTables
from leaktrace.targets.glibc_arenas import is_libc
from leaktrace.targets.instant import NoInstantError, take_instant
from leaktrace.targets.memory_copy import MemoryCopy
from leaktrace.targets.program_break import start_of_heap
from leaktrace.verdict import Verdict, VerdictKind

_HELD = (BlockClass.REACHABLE, BlockClass.POSSIBLE)


class LostBlocks:
    """What the last looks have found, by process."""

    def __init__(
        self,
        tracer: Tracer,
        older_ms: int,
        limits: Limits,
        max_pause_ms: int | None = None,
        *,
        asks_holders: bool = False,
    ) -> None:
        """Raises EnvironmentUnfitError where registers can't be read. `older_ms`: blocks of that
        age are judged. `max_pause_ms`: processes are stopped for it, at most so long.
        `asks_holders`: who holds the others is asked, too."""
        self._tracer = tracer
        self._older_ns = older_ms * 1_000_000
        self._limits = limits
        self._max_pause_ms = max_pause_ms
        self._not_stopped: dict[int, str] = {}  # why the last look was without a stop, by pid
        self._registers = RegisterReader()
        self._scans: dict[tuple[int, int], Scan] = {}  # by slot and generation of the program
        self._problems: dict[int, str] = {}  # by pid
        self._at_exit: set[tuple[int, int]] = set()  # whose scan is the last that there can be
        self._lock = threading.Lock()  # for these, which two threads change
        self._tables = FileTables() if asks_holders else None  # to tell who holds blocks
        # By slot: the scan that the last snapshot was compared with, and its rows that are there.
        self._shown: dict[int, tuple[Scan, NDArray[np.intp]]] = {}
        tracer.on_close(self._registers.close)
        for member in tracer.family:
            if member.traced.command is not None:
                member.before_exit.append(partial(self.look_at_stopped, member))

    def look(self, pump: Callable[[], None], older: OlderBlocksReports | None = None) -> None:
        """Look at all processes that are alive. `pump`: called meanwhile, so that what the kernel
        side sends is taken in. `older`: gets the heaps that were walked."""
        for member in list(self._tracer.family.living):
            in_background(partial(self._look_at, member, older=older), pump)

    def look_at_stopped(self, member: Member) -> None:
        """Look at a command that is stopped as it exits: at all of its blocks. Called by another
        thread than the main one."""
        with self._lock:
            self._at_exit.add(member.key)
        self._look_at(member, lambda: False, is_stopped=True)

    def add_to(self, snapshot: Snapshot) -> Snapshot:
        """The snapshot, with what is known of its blocks."""
        if snapshot.record_slots is None:
            return snapshot
        classes = np.zeros(len(snapshot.records), dtype=np.uint8)
        leaders = np.zeros(len(snapshot.records), dtype=np.uint64)
        is_block = np.arange(len(classes)) < len(classes) - snapshot.region_count
        self._shown = {}
        for slot, found in self._current():
            self._shown[slot] = found, np.empty(0, dtype=np.intp)
            rows = np.nonzero(is_block & (snapshot.record_slots == slot))[0]
            if not len(found.addresses):
                continue
            at = np.searchsorted(found.addresses, snapshot.addresses[rows])
            at = at.clip(max=len(found.addresses) - 1)
            is_same = (found.addresses[at] == snapshot.addresses[rows]) & (
                found.times_ns[at] == snapshot.records["time_ns"][rows]
            )
            classes[rows[is_same]] = found.classes[at[is_same]]
            leaders[rows[is_same]] = found.leaders[at[is_same]]
            self._shown[slot] = found, at[is_same]
        return replace(snapshot, reach=Reach(classes, leaders))

    def held(self) -> list[tuple[Member, HeldBlocks, NDArray[np.intp]]]:
        """Of each process, who holds its blocks, and which of them were judged, are not lost and
        still there in the snapshot that `add_to` was called with."""
        return [
            (member, one.held, rows[np.isin(one.classes[rows], _HELD)])
            for member in self._tracer.family
            if member.number in self._shown
            for one, rows in (self._shown[member.number],)
            if one.held is not None
        ]

    def describe(self, report: Report, time_ns: int) -> Report:
        """The report of the snapshot that `add_to` was called with, at this moment, with how its
        memory was looked at."""
        if report.reach is None:
            return report
        scans = [found for found, _ in self._shown.values()]
        held = [one.held for one in scans if one.held is not None]
        reach = replace(
            report.reach,
            age_s=max([(time_ns - one.time_ns) / 1e9 for one in scans], default=0.0),
            passes=max([one.passes for one in scans], default=0),
            read_bytes=sum(one.read_bytes for one in scans),
            unread_bytes=sum(one.unread_bytes for one in scans),
            took_s=sum(one.took_s for one in scans),
            pause_s=max((one.paused_s for one in scans if one.paused_s is not None), default=None),
            heap_is_known=bool(scans) and all(one.knows_heap for one in scans),
            problems=tuple(self._unseen(time_ns)),
            late_unread_count=sum(one.left_out_count for one in held),
            late_unread_bytes=sum(one.left_out_bytes for one in held),
            unkept_words=sum(one.left_out_words for one in held),
        )
        return replace(report, reach=reach, verdict=self._at_the_end(report, reach))

    def _at_the_end(self, report: Report, reach: ReachInfo) -> Verdict | None:
        """The verdict on a command whose blocks were all looked at as it exited: then it is not too
        early for one."""
        verdict, seen = report.verdict, self._shown
        if verdict is None or verdict.kind is not VerdictKind.TOO_EARLY or not report.final:
            return verdict
        members = [one for one in self._tracer.family if one.number in seen]
        are_last = bool(members) and all(one.key in self._at_exit for one in members)
        if not are_last or reach.problems:
            return verdict
        if verdict.may_grow:  # something points to what is kept, but it may be kept for ever
            return verdict
        some = "else is lost" if reach.lost.definite_count else "is lost"
        return Verdict(VerdictKind.STEADY, f"nothing {some}")

    def _unseen(self, time_ns: int) -> Iterator[str]:
        """What is not known."""
        scans = [one for one, _ in self._shown.values()]
        knows_heap = bool(scans) and all(one.knows_heap for one in scans)
        if not (self._tracer.program.sees_all_releases or knows_heap):
            yield "not all blocks have a record: what others than those point to counts as in use"
        for member in self._tracer.family.living:
            if member.pid in self._problems:
                yield f"process {member.pid} was not looked at: {self._problems[member.pid]}"
            elif member.pid in self._not_stopped:
                why = self._not_stopped[member.pid]
                yield f"process {member.pid} was looked at without a stop: {why}"
        seen = self._shown
        ended = [one for one in self._tracer.family if one.has_ended and one.number not in seen]
        for member in self._tracer.family:
            if member.has_ended and member.number in seen and member.key not in self._at_exit:
                age = units.age(time_ns - seen[member.number][0].time_ns)
                yield f"process {member.pid} has ended: it was looked at {age} before this report"
        if len(ended) == 1:
            yield f"process {ended[0].pid} ended before it was looked at"
        elif ended:
            yield f"{len(ended):,} processes ended before they were looked at"

    def _current(self) -> list[tuple[int, Scan]]:
        """The scans of the programs that run now, by slot."""
        with self._lock:
            scans = self._scans
        return [
            (member.number, scans[key])
            for member in self._tracer.family
            if (key := member.key) in scans
        ]

    def _look_at(
        self,
        member: Member,
        is_abandoned: Callable[[], bool],
        *,
        is_stopped: bool = False,
        older: OlderBlocksReports | None = None,
    ) -> None:
        traced, key = member.traced, member.key

        def must_end() -> bool:
            return is_abandoned() or (key in self._at_exit and not is_stopped)

        try:
            if self._max_pause_ms is None or is_stopped:
                found = scan(
                    member.pid,
                    blocks_of(self._tracer.program, traced),
                    0 if is_stopped else self._older_ns,
                    self._registers,
                    passes=1 if is_stopped else PASSES,
                    are_all=is_stopped and self._knows_all_blocks(member),
                    holders=self._asked_holders(traced, is_stopped=is_stopped),
                    is_abandoned=must_end,
                )
            else:
                with first_victim():
                    found = self._stop_and_look(member, self._max_pause_ms, must_end, older)
        except AbandonedError:
            return
        except LeaktraceError as error:
            self._note(member, error.message)
        except OSError as error:
            self._note(member, error.strerror or "its memory can't be read")
        else:
            with self._lock:
                if must_end():
                    return
                self._problems.pop(member.pid, None)
                others = {one: of for one, of in self._scans.items() if one[0] != key[0]}
                self._scans = {**others, key: found}  # a new dict: the old one may be in use

    def _stop_and_look(
        self,
        member: Member,
        max_pause_ms: int,
        must_end: Callable[[], bool],
        older: OlderBlocksReports | None,
    ) -> Scan:
        """With a stop; without one if that is not possible. Raises as `scan`."""
        traced, program = member.traced, self._tracer.program
        began_s = time.monotonic()
        before = blocks_of(program, traced)
        read_ms = round((time.monotonic() - began_s) * 1000)
        if older is not None and read_ms + expected_pause_ms(member.pid) > max_pause_ms:
            older = None  # reading the records would take too long here: it stops for itself
        during: list[tuple[NDArray[Any], NDArray[Any]]] = []

        def read_records(_: MemoryCopy) -> None:
            if older is not None:
                during.append(program.allocations.read_all())  # what can wait is done afterwards

        try:
            instant = take_instant(
                member.pid, max_pause_ms, lambda: not must_end(), also=read_records
            )
        except NoInstantError as error:
            if must_end():
                raise AbandonedError from None
            with self._lock:
                self._not_stopped[member.pid] = error.message
            found = scan(
                member.pid,
                before,
                self._older_ns,
                self._registers,
                holders=self._asked_holders(traced, is_stopped=False),
                is_abandoned=must_end,
            )
            return replace(found, paused_s=error.paused_s)
        with self._lock:
            self._not_stopped.pop(member.pid, None)
        break_start = start_of_heap(member.pid)
        after = blocks_of(program, traced)

        def see(judged: JudgedHeap) -> None:
            if older is not None:
                then = [blocks_among(one, traced) for one in during]
                recorded = np.concatenate([one[0] for one in (before, *then, after)])
                older.take(member, instant, judged, recorded)

        return scan_instant(
            instant,
            break_start,
            before,
            after,
            self._older_ns,
            holders=self._asked_holders(traced, is_stopped=True),
            see=see,
            is_abandoned=must_end,
        )

    def _asked_holders(self, traced: Traced, *, is_stopped: bool) -> AskedHolders | None:
        if self._tables is None:
            return None
        records_now = partial(blocks_of, self._tracer.program, traced)
        return AskedHolders(self._tables, None if is_stopped else records_now)

    def _knows_all_blocks(self, member: Member) -> bool:
        """Whether each block of glibc's heap has a record: it was traced from its start, nothing
        was left out or lost, no other allocator is hooked, and only malloc moves the break."""
        traced, program = member.traced, self._tracer.program
        # Static programs have thread-local variables in their heap.
        is_libc_only = all(is_libc(one.path) for one in traced.hooks.objects)
        if not (program.sees_all_releases and traced.hooks.saw_all and is_libc_only):
            return False
        _, counters = program.losses.read_all()
        losses = describe_losses(counters.view(np.uint64), self._limits)
        if any(one.count and one.is_lost for one in losses):
            return False
        return not len(regions_of(traced, Backing.BREAK)[0])

    def _note(self, member: Member, text: str) -> None:
        if member.traced.process.is_alive():
            self._problems[member.pid] = text
