"""Traces processes: records their allocations, and reads what was recorded.

process/setup.py opens a tracer with the probes attached. session/loop.py drives it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from leaktrace.abi import process as abi
from leaktrace.analysis.sampling import Sampling
from leaktrace.analysis.snapshot import Snapshot
from leaktrace.bpf.events import EventStream
from leaktrace.model import Remark, TargetInfo
from leaktrace.options import Pair, ProcessOptions
from leaktrace.process.attach.keeper import Keeper
from leaktrace.process.cost import CostMeter
from leaktrace.process.event_intake import EventDispatch
from leaktrace.process.family import Family
from leaktrace.process.family_names import FamilyNames
from leaktrace.process.info import describe_family
from leaktrace.process.probes.allocators import FUNCTION_NAMES
from leaktrace.process.program import Program
from leaktrace.process.regions_in_memory import look_at_regions
from leaktrace.process.snapshot import take_snapshot
from leaktrace.process.traced import Traced
from leaktrace.tracing.calls import CallNamer, TracedCalls
from leaktrace.tracing.events import decode, take_messages

_OPEN_AND_CLOSE = Pair("descriptor", "close")


@dataclass(frozen=True)
class Streams:
    """The events that the kernel side sends."""

    regions: EventStream  # also exec, fork and what the loader does
    calls: EventStream | None  # with --trace


class Tracer:
    """Traces processes from `arm()` to `close()`."""

    def __init__(
        self,
        options: ProcessOptions,
        *,
        program: Program,
        family: Family,
        streams: Streams,
        events: EventDispatch,
        keeper: Keeper | None,
        resources: ExitStack,
    ) -> None:
        """`keeper` holds the probes, None where no function is hooked; `resources` closes all that
        is given here."""
        self._options = options
        self._sampling = Sampling.from_filters(options.filters)
        self.program = program
        self._streams = streams
        self._events = events
        self._keeper = keeper
        self._resources = resources
        functions = {int(function): name for function, name in FUNCTION_NAMES.items()}
        self.family = family
        self.names = FamilyNames(program.stacks, family)
        self._executed: set[int] = set()
        self._nameless_calls = 0  # traced ones of processes that had to make room
        of_pairs, unsized = _functions_of(options)
        self._name_call = CallNamer(
            functions | of_pairs, self.names.stack_of, options.report, unsized
        )

    @property
    def first(self) -> Traced:
        """The process that was named first, or the command."""
        return self.family.first.traced

    @property
    def knows_break(self) -> bool:
        """Whether the kernel side sees where program breaks are."""
        return self.program.knows_break

    def arm(self) -> None:
        """Record from now on, and let a command that is held before its exec run.

        Raises TargetError when the command can't be executed.
        """
        for member in self.family:
            member.arm(follows=self.family.follows)
        if self.family.follows:
            pids = {member.pid for member in self.family}
            for member in self.family:
                member.traced.notice_older_children(pids)

    def throttle(self, rate: int) -> Sampling:
        """Record one allocation in `rate` from now on. Returns how records are to be weighed.

        Needs a program with a bound on the overhead (--max-overhead).
        """
        throttle = self.program.throttle
        assert throttle is not None  # the program has it with --max-overhead
        # The rate is set before the time from which records count more. Meanwhile what is recorded
        # in full counts too little for a moment; the other order would count too much, permanently.
        value = np.zeros(1, dtype=abi.THROTTLE)
        value["since_ns"] = np.iinfo(np.uint64).max
        value["rate"] = rate
        throttle.update(0, value)
        value["since_ns"] = since_ns = time.monotonic_ns()
        throttle.update(0, value)
        self._sampling = Sampling(rate, since_ns=since_ns)
        return self._sampling

    def cost_meter(self) -> CostMeter:
        """Measures what tracing costs, from now on."""
        asked = self._options
        is_needed = asked.report.verbose or asked.max_overhead_percent is not None
        return CostMeter(
            self.program,
            lambda: [member.traced.process for member in self.family.living],
            self._stepped_share,
            measure_programs=is_needed,
        )

    def _stepped_share(self) -> float:
        return self.first.hooks.stepped_share()  # the first one changes when processes end

    # --- while it runs ---------------------------------------------------------------------

    def streams(self) -> list[EventStream]:
        """Readable when there is something to `pump`."""
        calls = self._streams.calls
        return [self._streams.regions, *([] if calls is None else [calls])]

    def end_fileno(self) -> int:
        """Readable when a process ends."""
        return self.family.fileno()

    def has_ended(self) -> bool:
        """Whether all processes have ended."""
        return self.family.notice_ends()

    def probes_fileno(self) -> int | None:
        """Readable when the keeper has ended, and the probes with it."""
        return None if self._keeper is None else self._keeper.fileno()

    def check_probes(self) -> None:
        """Raises KeeperGoneError when the keeper has ended, and the probes with it."""
        if self._keeper is not None and self._keeper.is_gone():
            raise self._keeper.gone()

    def pump(self, most_calls: int | None = None) -> tuple[TracedCalls, bool]:
        """Take in what the kernel side sent. Returns traced calls, at most `most_calls` if given,
        and whether a process has executed a program."""
        # Calls first: the names of their stacks depend on what was loaded before them.
        messages, left_out = take_messages(self._streams.calls, most_calls)
        self._events.take_in()
        executed = False
        for member in self.family:
            traced = member.traced
            member.looks.look_if_asked()
            if messages:
                member.looks.note_lost_loads()
            generation = traced.slot.generation()
            if generation > traced.generation:
                traced.execute(generation)
            if traced.take_executed():
                executed = True
                self._executed.add(member.number)
                member.memory.begin_program()
        return self._traced_calls(messages, left_out), executed

    def take_executed(self) -> set[int]:
        """The slots of the processes that have executed a program since the last call."""
        executed, self._executed = self._executed, set()
        return executed

    def _traced_calls(self, messages: list[bytes], left_out: int) -> TracedCalls:
        calls = decode(messages)
        owners = [self._traced_of(call) for call in calls]
        self._nameless_calls += owners.count(None)
        is_shown = [
            traced is not None and _is_shown(call, traced)
            for call, traced in zip(calls, owners, strict=True)
        ]
        shown = calls[np.array(is_shown, dtype=bool)]
        left_out += self._nameless_calls
        return TracedCalls(shown, self._name_call, left_out, self.names.prepare)

    def _traced_of(self, call: np.void) -> Traced | None:
        """The process of a call; None if it had to make room for another one."""
        member = self.family.of_slot(int(call["slot"]))
        if member is None or int(call["time_ns"]) < member.traced.slot.since_ns:
            return None
        return member.traced

    def next_look_s(self) -> float | None:
        """When `look_again` is due, on the clock of time.monotonic(); None: it isn't."""
        return self.family.next_s()

    def look_again(self) -> None:
        """Find what the processes have loaded or forked since the last look."""
        self.family.proceed()

    # --- results ---------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """Read the maps, after all events up to now were taken in."""
        family = self.family
        for member in family.living:
            traced = member.traced
            member.looks.look()
            traced.repair_probes()
            member.looks.proceed_if_forgotten()
            traced.symbolizer.refresh_generated_names()
        for member in family:
            member.traced.regions.look()
        look_at_regions([member.traced for member in family])
        snapshot = take_snapshot(
            self.program,
            [member.traced for member in family],
            combined_only=self._options.report.combined_only or self._options.faults,
            count_unit=self._sampling.count_unit,
            space_count=self._options.space_count,
        )
        # The names of these stacks may depend on what was loaded before the last of them.
        pids = {member.pid for member in family.living}
        for member in family.living:
            member.looks.take_in()
            member.traced.update_remarks(pids, follows=family.follows)
            member.looks.note_lost_loads()
        snapshot = replace(
            snapshot, has_runtime_heap=any(one.traced.has_runtime_heap for one in family)
        )
        first = self.first
        if len(family) == 1 and first.symbolizer.views.has_changed:
            whole = (snapshot, *snapshot.sections)
            merged = [
                first.same_sites[space].merge(one, first.names.locations_of)
                for space, one in enumerate(whole)
            ]
            others = [  # by negative numbers, which no space has
                first.same_sites[-number].merge(one, first.names.locations_of)
                for number, one in enumerate(snapshot.other_memory, start=1)
            ]
            return replace(merged[0], sections=tuple(merged[1:]), other_memory=tuple(others))
        return snapshot

    def watch_releases(self, stack_ids: Sequence[int]) -> None:
        """Count from now on which stacks release the blocks of these sites, of at most abi.WATCHES;
        the first ones matter most. Without a walker for that, nothing is counted."""
        if self.program.releases is not None:
            self.program.releases.watch(stack_ids)

    def releases(self) -> dict[int, dict[int, int]]:
        """By site that is watched: how many blocks were released from which stack."""
        return {} if self.program.releases is None else self.program.releases.counts()

    def all_of(self, stack_id: int) -> list[int]:
        """The stack ids that one represents in the snapshots of a single process."""
        if len(self.family) > 1:
            return [stack_id]
        found = dict.fromkeys([stack_id])
        for same in self.first.same_sites.values():
            found |= dict.fromkeys(same.all_of(stack_id))
        return list(found)

    def first_of(self, stack_id: int) -> int:
        """The stack id that represents this one in the snapshots of a single process."""
        if len(self.family) == 1:
            for same in self.first.same_sites.values():
                if (first := same.first_of(stack_id)) != stack_id:
                    return first
        return stack_id

    def pair_calls(self, space: int) -> np.void:
        """Calls of a pair's functions that its records can't explain (abi.PAIR_CALLS)."""
        assert self.program.pair_calls is not None  # there is a pair
        calls = self.program.pair_calls.lookup(space)
        assert calls is not None  # an array has all its entries
        return calls

    def info(self) -> TargetInfo:
        """The processes as reports describe them."""
        return describe_family(self.family, verbose=self._options.report.verbose)

    def remarks(self) -> tuple[Remark, ...]:
        """What the figures of the last snapshot do not include, because nothing is hooked there."""
        found = [remark for member in self.family for remark in member.traced.remarks()]
        return tuple({remark.kind: remark for remark in reversed(found)}.values())

    def on_close(self, callback: Callable[[], None]) -> None:
        """Something else to close, before the tracer's own parts."""
        self._resources.callback(callback)

    def undo_if_killed(self, writes: Iterable[tuple[Path, str]]) -> None:
        """Files of the kernel, and what to write to them if leaktrace ends without doing it."""
        if self._keeper is not None:
            self._keeper.undo_if_killed(writes)

    def close(self) -> None:
        """Detach the probes, close the maps, and end the command if leaktrace started one."""
        self._resources.close()


def _functions_of(options: ProcessOptions) -> tuple[dict[int, str], set[int]]:
    """The functions of pairs by their codes in trace events, and the codes of those that have no
    sizes. File descriptors count as another pair."""
    names: dict[int, str] = {}
    unsized: set[int] = {abi.Function.SHMAT}  # that of the segment is not in the call
    pairs = [*options.pairs, *([_OPEN_AND_CLOSE] if options.fds else [])]
    for space, pair in enumerate(pairs, start=1):
        codes = {
            abi.Function.PAIR + space: pair.allocate,
            abi.Function.PAIR_RELEASE + space: pair.release,
        }
        names |= codes
        if not pair.is_sized:
            unsized |= set(codes)
    return names, unsized


def _is_shown(call: np.void, traced: Traced) -> bool:
    # Before its exec, a command is a copy of leaktrace: its calls are not the user's program's.
    is_of_program = int(call["generation"]) >= traced.first_generation
    return is_of_program and not traced.own.hides(call) and not traced.regions.hides(call)
