"""Looks for the blocks of the traced processes that are older than the trace, for reports (--heap).

All blocks that malloc has handed out are found in its own structures, and those with a record are
subtracted by address. What is left was allocated before the probes were there. That holds if the
records are those of the instant of the walk, so they are read while the process is stopped. Two
kinds of blocks have no record at that instant, and are not old:

* A call has allocated one, and not returned yet. Its record comes when the process goes on, so
  records are read again afterwards.
* A call has begun to free one: its record goes first. Records are read before the stop, too.

Such a block could be missed by all three only if its call began before the first reading, or if it
was freed before the last one came to it. But a thread that is inside such a call has the block's
address in a register or on the top of its stack. Those are not judged, but counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leaktrace import units
from leaktrace.analysis.reachability.pointers import disjoint
from leaktrace.errors import LeaktraceError, TargetError
from leaktrace.heap.live import expected_pause_ms, memory_of
from leaktrace.heap.older import JudgedHeap, find_older
from leaktrace.heap.reach import blocks_of, find_lost
from leaktrace.heap.walk import walk_heap
from leaktrace.heap.walked import WalkedHeap
from leaktrace.heap_report import OlderBlocks
from leaktrace.model import Report
from leaktrace.options import HeapLooks, Limits
from leaktrace.own.oom import first_victim
from leaktrace.process.background import in_background
from leaktrace.process.calls_in_progress import blocks_in_progress
from leaktrace.process.losses import describe_losses
from leaktrace.process.member import Member
from leaktrace.process.scan import AbandonedError
from leaktrace.process.snapshot import blocks_among
from leaktrace.process.tracer import Tracer
from leaktrace.targets.instant import Instant, NoInstantError, take_instant
from leaktrace.targets.memory_copy import MemoryCopy

_TRIES = 3  # a thread may be within malloc as it is stopped

Addresses = NDArray[np.uint64]
Records = tuple[NDArray[Any], NDArray[Any]]  # keys and values of the map, of all processes


class OlderBlocksReports:
    """What the last looks have found, by process."""

    def __init__(
        self,
        tracer: Tracer,
        when: HeapLooks,
        max_pause_ms: int,
        limits: Limits,
        *,
        is_sampled: Callable[[], bool],
    ) -> None:
        """`is_sampled`: whether some blocks were not recorded on purpose."""
        self._tracer = tracer
        self._when = when
        self._max_pause_ms = max_pause_ms
        self._limits = limits
        self._is_sampled = is_sampled
        self._has_looked = False
        self._found: dict[tuple[int, int], tuple[int, OlderBlocks]] = {}  # with the time, in ns
        self._covered: set[tuple[int, int]] = set()  # looked at for this report

    def begin(self, *, is_last: bool) -> bool:
        """A report is made. Returns whether it is one of those at which is looked."""
        is_first, self._has_looked = not self._has_looked, True
        self._covered = set()
        is_end = is_last or (is_first and self._when is HeapLooks.ENDS)
        return is_end or self._when is HeapLooks.EVERY

    def look(self, pump: Callable[[], None]) -> None:
        """Look at all processes that are alive and that `take` has not been called for."""
        for member in list(self._tracer.family.living):
            # What has executed a program under trace is traced from its start.
            if member.key not in self._covered and not member.traced.generation:
                in_background(partial(self._look_at, member), pump)

    def take(
        self, member: Member, instant: Instant, judged: JudgedHeap, recorded: Addresses
    ) -> None:
        """Use a look, which may have been made for something else. `recorded`: the addresses of the
        blocks with a record before, during and after the stop."""
        if member.traced.generation:
            return
        memory = memory_of(instant, member.traced.process.read_name())
        doubtful = blocks_in_progress(
            instant,
            member.traced.hooked(),
            disjoint(judged.heap.structures),
            memory.read_constant,
        )
        found = find_older(memory, judged, recorded, doubtful)
        unsure = tuple(self._unsure(member))
        self._keep(member, instant.time_ns, replace(found, may_be_newer=unsure))

    def describe(self, report: Report, time_ns: int) -> Report:
        """The report of a snapshot of this moment, with what was found."""
        return replace(report, older_blocks=tuple(self._shown(time_ns)))

    def _shown(self, time_ns: int) -> Iterator[OlderBlocks]:
        for member in self._tracer.family:
            if member.key in self._found:
                at_ns, found = self._found[member.key]
                yield replace(found, age_s=max(time_ns - at_ns, 0) / 1e9)
            elif member.parent_pid is None:  # a child that was followed may be short-lived
                problem = "it ended before it was looked at"
                if member.traced.generation:
                    problem = "it has executed another program, of which all is traced"
                name = member.traced.process.read_name()
                yield OlderBlocks(member.pid, name, problem=problem)

    def _look_at(self, member: Member, is_abandoned: Callable[[], bool]) -> None:
        began_ns = time.monotonic_ns()
        try:
            with first_victim():
                self._stop_and_look(member, is_abandoned)
        except AbandonedError:
            return
        except LeaktraceError as error:
            self._note(member, began_ns, error.message)
        except OSError as error:
            self._note(member, began_ns, error.strerror or "its memory can't be read")

    def _stop_and_look(self, member: Member, is_abandoned: Callable[[], bool]) -> None:
        """Raises TargetError, NoInstantError, OSError and AbandonedError."""

        def go_on() -> None:
            if is_abandoned():
                raise AbandonedError

        instant, heap, recorded = self._whole_heap(member, is_abandoned, go_on)
        memory = memory_of(instant, "")
        blocks = blocks_of(heap)
        dead = np.concatenate([memory.dead_stacks(), heap.structures])
        classes = find_lost(
            memory.image, blocks, memory.registers, dead, heap.segments, go_on=go_on
        )
        self.take(member, instant, JudgedHeap(heap, blocks, classes), recorded)

    def _whole_heap(
        self, member: Member, is_abandoned: Callable[[], bool], go_on: Callable[[], None]
    ) -> tuple[Instant, WalkedHeap, Addresses]:
        problem = ""
        for _ in range(_TRIES):
            go_on()
            found: list[Records] = []

            def read_records(_: MemoryCopy | None = None, found: list[Records] = found) -> None:
                # Which of them are this process's is asked afterwards.
                found.append(self._tracer.program.allocations.read_all())

            began_s = time.monotonic()
            read_records()
            takes_ms = expected_pause_ms(member.pid) + round((time.monotonic() - began_s) * 1000)
            if takes_ms > self._max_pause_ms:
                raise TargetError(
                    f"it would be stopped for about {takes_ms:,} ms, more than "
                    f"{self._max_pause_ms:,} (--max-pause-ms)",
                    "",
                )
            try:
                instant = take_instant(
                    member.pid, self._max_pause_ms, lambda: not is_abandoned(), also=read_records
                )
            except NoInstantError:
                go_on()
                raise
            read_records()
            threads = [one.thread_pointer for one in instant.threads]
            heap = walk_heap(instant.copy.image(), instant.mappings, threads)
            if heap is None:
                raise TargetError("it has no heap that leaktrace can walk", "")
            if not heap.problems:
                recorded = [blocks_among(one, member.traced)[0] for one in found]
                return instant, heap, np.concatenate(recorded)
            problem = heap.problems[0]
        raise TargetError(f"its heap was not whole: {problem}", "")

    def _unsure(self, member: Member) -> Iterator[str]:
        """Why blocks without a record may be newer than the trace."""
        if not member.traced.hooks.saw_all:
            yield "an allocator was hooked when it may have allocated already"
        if self._is_sampled():
            yield "not every allocation was recorded (--max-overhead)"
        _, counters = self._tracer.program.losses.read_all()
        for loss in describe_losses(counters.view(np.uint64), self._limits):
            if loss.count and loss.is_lost:
                yield units.loss_in_words(loss)

    def _keep(self, member: Member, time_ns: int, found: OlderBlocks) -> None:
        self._covered.add(member.key)
        self._found = {key: of for key, of in self._found.items() if key[0] != member.number}
        self._found[member.key] = time_ns, found

    def _note(self, member: Member, time_ns: int, problem: str) -> None:
        if member.traced.process.is_alive():
            name = member.traced.process.read_name()
            self._keep(member, time_ns, OlderBlocks(member.pid, name, problem=problem))
