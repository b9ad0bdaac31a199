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

from leaktrace import descriptors
from leaktrace.analysis.builder import ReportBuilder
from leaktrace.errors import NothingTracedError
from leaktrace.interrupts import Interrupts
from leaktrace.model import Cost, Report, TargetInfo
from leaktrace.notices import hint, tell
from leaktrace.options import CommandTarget, KernelTarget, Options
from leaktrace.report import Reporter, create_reporter, open_output
from leaktrace.tracer import Tracer
from leaktrace.tracing import Tracing

if TYPE_CHECKING:
    from leaktrace.kernel_tracer import KernelTracer

_PATIENCE_INTERVALS = 3
_THROTTLED_RATE = 10
_NEGLIGIBLE_S_PER_S = 0.01  # of one CPU: too little to do anything about


def run(options: Options) -> int:
    """Trace until the target ends, the reports asked for are written, or a signal comes.

    Returns the exit code: 0, or the command's own where that was asked for. Raises LeaktraceError,
    and BrokenPipeError when the reader of the reports is gone.
    """
    descriptors.take_all()
    with open_output(options.report.output) as output, Interrupts() as interrupts:
        reporter = create_reporter(options.report.format, output.stream, sys.stderr)
        if isinstance(options.target, KernelTarget):
            # Imported here: all that belongs to kernel mode takes hundredths of a second.
            from leaktrace.kernel_tracer import KernelTracer  # noqa: PLC0415

            kernel_tracer = KernelTracer(options)
            try:
                KernelRun(options, kernel_tracer, reporter, interrupts).until_the_end()
            finally:
                kernel_tracer.close()
            return 0
        tracer = Tracer(options)
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
        if self._interrupts.received is not None:
            name = self._interrupts.received.name
            raise NothingTracedError(f"{name} came before tracing began", "nothing was recorded")
        self._reporter.begin(self._tracer.info(), self._argv)
        self._tracer.arm()
        self._start_clock()
        self._meter = self._tracer.cost_meter()
        info = self._tracer.info()
        tell(f"tracing {_subject(info)}: {'; '.join(info.allocators)}")
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
                    return "the target has ended"
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
        events, executed = self._tracer.pump()
        if executed:
            self._forget()
        if events:
            self._reporter.events(events)

    def _report(self, final_reason: str | None = None) -> None:
        self._reporter.report(replace(self._build(final_reason), cost=self._cost))


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
        self._builder = ReportBuilder(options, tracer.stack_of)
        self._max_overhead = options.max_overhead_percent
        self._intervals_above = 0

    def _start_clock(self) -> None:
        self._builder.start_clock()

    def _end_fileno(self) -> int:
        return self._process.fileno()

    def _probes_fileno(self) -> int | None:
        return self._traced.keeper_fileno()

    def _check_probes(self) -> None:
        self._traced.check_probes()

    def _forget(self) -> None:
        self._builder.forget()

    def _build(self, final_reason: str | None) -> Report:
        ended = not self._process.is_alive()
        return self._builder.build(
            self._traced.snapshot(),
            self._traced.info(),
            self._process.resident_bytes(),
            target_ended=ended,
            final_reason=final_reason,
        )

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
