"""Traces a process: records its allocations, and reads what was recorded.

process/setup.py opens a tracer with the probes attached. session/run.py drives it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from leaktrace.abi import process as abi
from leaktrace.analysis.sampling import Sampling
from leaktrace.analysis.snapshot import Snapshot
from leaktrace.analysis.spaces import split
from leaktrace.bpf.events import EventStream
from leaktrace.model import Ending, Remark, TargetInfo
from leaktrace.options import Pair, ProcessOptions
from leaktrace.process.attach.keeper import Keeper
from leaktrace.process.cost import CostMeter
from leaktrace.process.info import describe_target
from leaktrace.process.looks import Looks
from leaktrace.process.probes.allocators import FUNCTION_NAMES
from leaktrace.process.program import Program
from leaktrace.process.snapshot import take_snapshot
from leaktrace.process.traced import Traced
from leaktrace.tracing.calls import CallNamer, TracedCalls
from leaktrace.tracing.events import decode, take_messages

_INITIAL_PID_NAMESPACE = 0xEFFFFFFC  # PROC_PID_INIT_INO, include/linux/proc_ns.h


@dataclass(frozen=True)
class Streams:
    """The events that the kernel side sends."""

    regions: EventStream  # also exec, fork and what the loader does
    calls: EventStream | None  # with --trace


class Tracer:
    """Traces one process from `arm()` to `close()`."""

    def __init__(
        self,
        options: ProcessOptions,
        *,
        program: Program,
        traced: Traced,
        looks: Looks,
        streams: Streams,
        keeper: Keeper | None,
        resources: ExitStack,
    ) -> None:
        """`keeper` holds the probes, None where no function is hooked; `resources` closes all that
        is given here."""
        self._options = options
        self._sampling = Sampling.from_filters(options.filters)
        self._program = program
        self._looks = looks
        self._streams = streams
        self._keeper = keeper
        self._resources = resources
        functions = {int(function): name for function, name in FUNCTION_NAMES.items()}
        of_pairs, unsized = _functions_of(options.pairs)
        self._name_call = CallNamer(
            functions | of_pairs, traced.names.stack_of, options.report, unsized
        )
        self.traced = traced

    def arm(self) -> None:
        """Record from now on, and let a command that is held before its exec run.

        Raises TargetError when the command can't be executed.
        """
        traced = self.traced
        traced.hooks.completeness.begin()
        session = np.zeros(1, dtype=abi.SESSION)
        session["armed"] = session["epoch"] = session["sent_epoch"] = 1
        # In another pid namespace, pids differ. There, the kernel side takes the tgid of the
        # first hit.
        if Path("/proc/self/ns/pid").stat().st_ino == _INITIAL_PID_NAMESPACE:
            session["tgid"] = traced.pid
        self._program.session.update(0, session)
        if traced.command is None:
            self._looks.look()  # finds the changes before this moment; later ones are reported
            traced.symbolizer.look_ahead()
        else:
            traced.command.release()
            traced.process.read_name()
        traced.notice_children()

    def throttle(self, rate: int) -> Sampling:
        """Record one allocation in `rate` from now on. Returns how records are to be weighed.

        Needs a program with a bound on the overhead (--max-overhead).
        """
        throttle = self._program.throttle
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
            self._program,
            self.traced.process,
            self.traced.hooks.stepped_share,
            measure_programs=is_needed,
        )

    # --- while it runs ---------------------------------------------------------------------

    def streams(self) -> list[EventStream]:
        """Readable when there is something to `pump`."""
        calls = self._streams.calls
        return [self._streams.regions, *([] if calls is None else [calls])]

    def end_fileno(self) -> int:
        """Readable when the process ends."""
        return self.traced.process.fileno()

    def probes_fileno(self) -> int | None:
        """Readable when the keeper has ended, and the probes with it."""
        return None if self._keeper is None else self._keeper.fileno()

    def check_probes(self) -> None:
        """Raises KeeperGoneError when the keeper has ended, and the probes with it."""
        if self._keeper is not None and self._keeper.is_gone():
            raise self._keeper.gone()

    def pump(self, most_calls: int | None = None) -> tuple[TracedCalls, bool]:
        """Take in what the kernel side sent. Returns traced calls, at most `most_calls` if given,
        and whether the process has executed a program."""
        traced = self.traced
        # Calls first: the names of their stacks depend on what was loaded before them.
        messages, left_out = take_messages(self._streams.calls, most_calls)
        self._looks.take_in()
        if messages:
            self._looks.note_lost_loads()
        generation = self._program.generation()
        if generation > traced.generation:
            traced.execute(generation)
        return self._traced_calls(messages, left_out), traced.take_executed()

    def _traced_calls(self, messages: list[bytes], left_out: int) -> TracedCalls:
        traced, calls = self.traced, decode(messages)
        # Before its exec, a command is a copy of leaktrace: its calls are not the user's program's.
        is_shown = calls["generation"] >= traced.first_generation
        is_shown &= ~np.array([traced.own.hides(call) for call in calls], dtype=bool)
        return TracedCalls(calls[is_shown], self._name_call, left_out, traced.names.prepare)

    def next_look_s(self) -> float | None:
        """When `look_again` is due, on the clock of time.monotonic(); None: it isn't."""
        return self._looks.next_s()

    def look_again(self) -> None:
        """Find what the process has loaded or forked since the last look."""
        self._looks.look_if_due()

    # --- results ---------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """Read the maps, after all events up to now were taken in."""
        traced = self.traced
        self._looks.look()
        traced.repair_probes()
        self._looks.proceed_if_forgotten()
        traced.symbolizer.refresh_generated_names()
        snapshot = take_snapshot(
            self._program,
            traced.regions,
            combined_only=self._options.report.combined_only or self._options.faults,
            count_unit=self._sampling.count_unit,
            is_left_out=traced.own.is_own,
        )
        snapshot = split(snapshot, len(self._options.pairs))
        # The names of these stacks may depend on what was loaded before the last of them.
        self._looks.take_in()
        traced.update_remarks()
        self._looks.note_lost_loads()
        if traced.symbolizer.views.has_changed:
            whole = (snapshot, *snapshot.sections)
            merged = [
                traced.same_sites[space].merge(one, traced.names.locations_of)
                for space, one in enumerate(whole)
            ]
            return replace(merged[0], sections=tuple(merged[1:]))
        return snapshot

    def pair_calls(self, space: int) -> np.void:
        """Calls of a pair's functions that its records can't explain (abi.PAIR_CALLS)."""
        assert self._program.pair_calls is not None  # there is a pair
        calls = self._program.pair_calls.lookup(space)
        assert calls is not None  # an array has all its entries
        return calls

    def ending(self) -> Ending | None:
        """How the process has ended; None while it lives."""
        return self.traced.ending(self._program)

    def info(self) -> TargetInfo:
        """The process as reports describe it."""
        return describe_target(self.traced, verbose=self._options.report.verbose)

    def remarks(self) -> tuple[Remark, ...]:
        """What the figures of the last snapshot do not include, because nothing is hooked there."""
        return self.traced.remarks()

    def close(self) -> None:
        """Detach the probes, close the maps, and end the command if leaktrace started one."""
        self._resources.close()


def _functions_of(pairs: Sequence[Pair]) -> tuple[dict[int, str], set[int]]:
    """The functions of pairs by their codes in trace events, and the codes of those that have no
    sizes."""
    names: dict[int, str] = {}
    unsized: set[int] = set()
    for space, pair in enumerate(pairs, start=1):
        both = (abi.Function.PAIR, pair.allocate), (abi.Function.FREE, pair.release)
        codes = {code | space << abi.FUNCTION_SPACE_SHIFT: name for code, name in both}
        names |= codes
        if not pair.is_sized:
            unsized |= set(codes)
    return names, unsized
