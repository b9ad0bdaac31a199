"""One run, from the probes to the last report:

target -> probe plan -> BPF program -> maps -> snapshot -> symbolize -> analyse -> report
"""

from __future__ import annotations

import selectors
import sys
import time
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING

from leaktrace import units
from leaktrace.analysis.builder import ReportBuilder
from leaktrace.errors import NothingTracedError
from leaktrace.model import TARGET_ENDED, Cost, Report, TargetInfo
from leaktrace.notices import hint, tell
from leaktrace.options import CommandTarget, KernelTarget, Options, ReportOptions
from leaktrace.own import descriptors
from leaktrace.own.interrupts import Interrupts, NothingToEndError
from leaktrace.process.losses import describe_losses, unprinted_calls
from leaktrace.process.tracer import Tracer
from leaktrace.report import Output, Reporter, create_reporter, open_output
from leaktrace.targets.memory_use import MemoryWatch
from leaktrace.tracing.calls import TracedCalls
from leaktrace.tracing.protocol import Tracing

if TYPE_CHECKING:
    from leaktrace.kernel.tracer import KernelTracer

_PATIENCE_INTERVALS = 3
_THROTTLED_RATE = 10
_NEGLIGIBLE_S_PER_S = 0.01  # of one CPU: too little to do anything about
_CALLS_AT_ONCE = 256  # named and printed before we look again for what else there is to do
# Printed after a signal: a tenth of a second's work, and all there is unless there are very many.
_CALLS_AFTER_SIGNAL = 2048


def run(options: Options) -> int:
    """Trace until the target ends, the reports asked for are written, or a signal comes.

    Returns the exit code: 0, or the command's own where that was asked for. Raises LeaktraceError,
    and BrokenPipeError when the reader of the reports is gone.
    """
    descriptors.take_all()
    with open_output(options.report.output) as output, Interrupts() as interrupts:
        try:
            return _run(options, output, interrupts)
        except NothingToEndError:
            assert interrupts.received is not None
            raise NothingTracedError(
                f"{interrupts.received.name} came before tracing began", "nothing was recorded"
            ) from None


def _run(options: Options, output: Output, interrupts: Interrupts) -> int:
    reporter = create_reporter(options.report.format, output.stream, sys.stderr)
    if isinstance(options.target, KernelTarget):
        # Imported here: all that belongs to kernel mode takes hundredths of a second.
        from leaktrace.kernel.tracer import KernelTracer  # noqa: PLC0415

        with interrupts.raised():
            kernel_tracer = KernelTracer(options)
        try:
            KernelRun(options, kernel_tracer, reporter, interrupts).until_the_end()
        finally:
            kernel_tracer.close()
        return 0
    with interrupts.raised():
        tracer = Tracer(options, interrupted=interrupts.is_received)
    try:
        ProcessRun(options, tracer, reporter, interrupts).until_the_end()
    finally:
        tracer.close()
    asked_for_exit_code = isinstance(options.target, CommandTarget) and (
        options.target.pass_exit_code
    )
    if asked_for_exit_code and tracer.command is not None:
        return tracer.command.wait()
    return 0


class Run(ABC):
    """The loop: wait for an event, an interval, the target's end or a signal, and act."""

    def __init__(
        self, options: Options, tracer: Tracing, reporter: Reporter, interrupts: Interrupts
    ) -> None:
        self._asked = options.report
        self._tracer = tracer
        self._reporter = reporter
        self._interrupts = interrupts
        self._cost: Cost | None = None
        self._calls_left = _CALLS_AFTER_SIGNAL
        self._unprinted = 0  # traced calls that were taken out of their buffer
        self._left_out = 0  # and others
        self._argv = options.target.argv if isinstance(options.target, CommandTarget) else ()

    @abstractmethod
    def _start_clock(self) -> None:
        """The probes are on from now."""

    @abstractmethod
    def _build(self, final_reason: str | None) -> Report:
        """A report of this moment; `final_reason` tells why it is the last one."""

    def _end_fileno(self) -> int | None:
        """What becomes readable when the target ends."""
        return None

    def _probes_fileno(self) -> int | None:
        """What becomes readable when the probes are gone, although nobody took them off."""
        return None

    def _check_probes(self) -> None:  # noqa: B027 (the kernel's are held by leaktrace itself)
        """Raises LeaktraceError when the probes are gone."""

    def _forget(self) -> None:  # noqa: B027 (most targets never do)
        """The target has become another program."""

    def _overhead_is_too_high(self, _cost: Cost) -> bool:
        """Whether to give up for what tracing costs."""
        return False

    def _relieve(self, _cost: Cost) -> None:  # noqa: B027 (most targets have no bound)
        """Make tracing cheaper, if what it costs has been too much for a while."""

    def until_the_end(self) -> None:
        with self._interrupts.raised():
            self._reporter.begin(self._tracer.info(), self._argv)
            self._tracer.arm()
        self._start_clock()
        self._meter = self._tracer.cost_meter()
        info = self._tracer.info()
        hooked = "; ".join(info.allocators)
        tell(f"tracing {_subject(info)}: {hooked}; {_schedule(self._asked)}")
        reason = self._report_at_intervals()
        if reason is not None:
            # Events may have arrived since the loop last looked.
            self._pump()
            self._cost = self._meter.measure()
            self._report(reason)
        self._meter.close()
        self._reporter.end()
        self._check_probes()

    def _report_at_intervals(self) -> str | None:
        """Returns why a last report is due, or None when the last one was written."""
        due_s, intervals = time.monotonic() + self._asked.interval_s, 0
        with selectors.DefaultSelector() as selector:
            descriptors = [stream.fileno() for stream in self._tracer.streams()]
            end, probes = self._end_fileno(), self._probes_fileno()
            descriptors += [one for one in (end, probes) if one is not None]
            for descriptor in (self._interrupts.fileno(), *descriptors):
                selector.register(descriptor, selectors.EVENT_READ)
            while True:
                look_s = self._tracer.next_look_s()
                wake_s = due_s if look_s is None else min(due_s, look_s)
                ready = selector.select(max(wake_s - time.monotonic(), 0))
                readable = {key.fd for key, _ in ready}
                self._pump()
                if end in readable:
                    return TARGET_ENDED
                if probes in readable:
                    return "its probes are gone"
                if self._interrupts.received is not None:
                    return f"interrupted ({self._interrupts.received.name})"
                if look_s is not None and time.monotonic() >= look_s:
                    self._tracer.look_again()
                if time.monotonic() >= due_s:
                    intervals += 1
                    # Reports that took longer than an interval don't make those after them hurry.
                    due_s = max(due_s, time.monotonic() - self._asked.interval_s / 2)
                    due_s += self._asked.interval_s
                    self._cost = self._meter.measure()
                    if self._overhead_is_too_high(self._cost):
                        self._report("tracing costs more than --max-overhead allows")
                        tell(
                            "detached: sampled, too, tracing costs more than --max-overhead allows"
                        )
                        hint("try --sample-bytes with a larger number, or --faults")
                        return None
                    if intervals == self._asked.count:
                        self._report("")
                        return None
                    if not self._asked.trace:
                        self._report()
                    self._relieve(self._cost)

    def _pump(self) -> None:
        interrupted = self._interrupts.received is not None
        calls, executed = self._tracer.pump(self._calls_left if interrupted else None)
        if executed:
            self._forget()
        self._print(calls)

    def _print(self, calls: TracedCalls) -> None:
        """Print traced calls; after a signal only so many more."""
        left = len(calls)
        self._left_out = calls.left_out
        for piece in calls.pieces(_CALLS_AT_ONCE):
            if self._interrupts.received is not None:
                self._calls_left -= len(piece)
                if self._calls_left < 0:
                    self._calls_left = 0
                    self._unprinted += left
                    return
            self._reporter.events(piece)
            left -= len(piece)

    def _report(self, final_reason: str | None = None) -> None:
        report = self._build(final_reason)
        losses = (*report.losses, unprinted_calls(self._unprinted + self._left_out))
        self._reporter.report(replace(report, losses=losses, cost=self._cost))


class KernelRun(Run):
    """The kernel traced. It has no end."""

    def __init__(
        self, options: Options, tracer: KernelTracer, reporter: Reporter, interrupts: Interrupts
    ) -> None:
        super().__init__(options, tracer, reporter, interrupts)
        self._kernel = tracer
        self._builder = tracer.builder()

    def _start_clock(self) -> None:
        self._builder.start_clock()

    def _build(self, final_reason: str | None) -> Report:
        return self._builder.build(self._kernel.snapshot(), self._kernel.info(), final_reason)


class ProcessRun(Run):
    """A process traced, until it ends."""

    def __init__(
        self, options: Options, tracer: Tracer, reporter: Reporter, interrupts: Interrupts
    ) -> None:
        super().__init__(options, tracer, reporter, interrupts)
        assert tracer.process is not None
        self._traced = tracer
        self._process = tracer.process
        self._names = tracer.names
        self._builder = ReportBuilder(
            options,
            lambda snapshot: describe_losses(snapshot.losses, options.limits),
            self._names.stack_of,
            self._names.prepare,
        )
        self._memory = MemoryWatch(tracer.process.pid)
        self._max_overhead = options.max_overhead_percent
        self._intervals_above = 0

    def _start_clock(self) -> None:
        self._builder.start_clock()
        if self._traced.command is None:  # a command is about to be executed
            self._memory.begin()

    def _end_fileno(self) -> int:
        return self._process.fileno()

    def _probes_fileno(self) -> int | None:
        return self._traced.keeper_fileno()

    def _check_probes(self) -> None:
        self._traced.check_probes()

    def _forget(self) -> None:
        self._builder.forget()
        self._memory.begin_program()

    def _build(self, final_reason: str | None) -> Report:
        ended = not self._process.is_alive()
        if final_reason is not None:
            self._names.expect_last_report()
        report = self._builder.build(
            self._traced.snapshot(),
            self._traced.info(),
            self._memory.look(),
            self._memory.of_programs,
            remarks=self._traced.remarks(),
            target_ended=ended,
            final_reason=final_reason,
        )
        # What names are missing is known once they were looked up.
        notes = (*report.target.notes, *self._names.notes())
        ending = self._traced.ending() if ended else None
        return replace(report, ending=ending, target=replace(report.target, notes=notes))

    def _overhead_is_too_high(self, cost: Cost) -> bool:
        """First sample, then give up: three intervals above the bound each."""
        share = cost.target_share
        if self._max_overhead is None or share is None:
            return False
        taken_s_per_s = (cost.programs_s_per_s or 0) + (cost.traps_s_per_s or 0)
        if share * 100 <= self._max_overhead or taken_s_per_s < _NEGLIGIBLE_S_PER_S:
            self._intervals_above = 0
            return False
        self._intervals_above += 1
        if self._intervals_above < _PATIENCE_INTERVALS:
            return False
        return self._builder.sampling.is_on

    def _relieve(self, cost: Cost) -> None:
        """Sample from now on, once what was recorded in full has been reported."""
        if self._intervals_above < _PATIENCE_INTERVALS or self._builder.sampling.is_on:
            return
        self._intervals_above = 0
        self._builder.sampling = self._traced.throttle(_THROTTLED_RATE)
        tell(
            f"tracing takes {cost.target_share or 0:.0%} of the process's CPU time: "
            f"from now on one allocation in {_THROTTLED_RATE} is recorded"
        )


def _subject(info: TargetInfo) -> str:
    return "the kernel" if info.kind == "kernel" else f"pid {info.pid}"


def _schedule(asked: ReportOptions) -> str:
    """When reports are due: an interval that was meant to be something else shows here."""
    every, count = units.interval(asked.interval_s), asked.count
    if asked.trace:
        if count is None:
            return "one report, at the end"
        return f"one report, after {every if count == 1 else f'{count:,} times {every}'}"
    if count is None:
        return f"a report every {every}"
    return f"one report, after {every}" if count == 1 else f"{count:,} reports, one every {every}"
