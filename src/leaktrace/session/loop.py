"""The loop of a run: wait for an event, an interval, the target's end or a signal, and act."""

from __future__ import annotations

import selectors
import time
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from leaktrace import units
from leaktrace.analysis.top_sites import with_top
from leaktrace.model import TARGET_ENDED, Cost, Report, TargetInfo
from leaktrace.notices import hint, notify, progress
from leaktrace.options import ReportOptions
from leaktrace.own.interrupts import Interrupts
from leaktrace.report import Output, Reporter
from leaktrace.session.conclusion import Conclusion
from leaktrace.session.marks import Marked, MarkRequests
from leaktrace.session.overhead import OverheadLimit
from leaktrace.session.recorder import Recorder
from leaktrace.targets.process import Process
from leaktrace.tracing.calls import TracedCalls
from leaktrace.tracing.losses import missing_output, unprinted_calls
from leaktrace.tracing.protocol import Meter, Reports, Tracing

if TYPE_CHECKING:
    from leaktrace.live.reporter import LiveReporter

# What a live view may ask for (live.state.Action).
_QUIT, _REPORT = "quit", "report"
_CALLS_AT_ONCE = 256  # named and printed before the loop checks what else there is to do
# Printed after a signal: a tenth of a second's work, and usually all calls that are left.
_CALLS_AFTER_SIGNAL = 2048


class Run:
    """The loop: wait for an event, an interval, the target's end or a signal, and act."""

    def __init__(
        self,
        asked: ReportOptions,
        tracer: Tracing,
        reports: Reports,
        reporter: Reporter,
        interrupts: Interrupts,
        *,
        output: Output,
        conclusion: Conclusion,
        argv: tuple[str, ...] = (),
        command: Process | None = None,
        limit: OverheadLimit | None = None,
        recorder: Recorder | None = None,
        live: LiveReporter | None = None,
    ) -> None:
        """`conclusion` sees all reports; `command`: the one that leaktrace starts; `argv`: its
        words; `limit`: what tracing may cost; `recorder` gets all reports with all sites; `live`:
        the reporter, if it is a live view."""
        self._asked = asked
        self._tracer = tracer
        self._reports = reports
        self._reporter = reporter
        self._interrupts = interrupts
        self._output = output
        self._conclusion = conclusion
        self._argv = argv
        self._command = command
        self._limit = limit
        self._recorder = recorder
        self._marks: MarkRequests | None = None
        self._live = live
        self._keys: int | None = None  # the descriptor of the live view
        self._cost: Cost | None = None
        self._calls_left = _CALLS_AFTER_SIGNAL
        self._unprinted = 0  # traced calls that were taken out of their buffer and not printed
        self._left_out = 0  # traced calls that were left in their buffer

    def until_the_end(self) -> None:
        """Raises LeaktraceError."""
        with self._interrupts.raised():
            self._reporter.begin(self._tracer.info(), self._argv)
            self._tracer.arm()
        if self._command is not None:
            self._interrupts.leave_first_to_command(self._command.pid, self._command.is_alive)
        self._reports.start_clock()
        meter = self._tracer.cost_meter()
        info = self._tracer.info()
        hooked = "; ".join(info.allocators) or "nothing is hooked yet"
        notify(f"tracing {_subject(info)}: {hooked}; {_schedule(self._asked)}")
        if self._recorder is not None:
            self._recorder.begin(info)
            self._marks = MarkRequests()
            if self._live is not None:
                self._live.on_mark = self._mark
        try:
            reason = self._report_at_intervals(meter)
        finally:
            if self._marks is not None:
                self._marks.close()
        if reason is not None:
            # Events may have arrived since the loop last read them.
            self._pump()
            self._cost = meter.measure()
            self._report(reason)
        meter.close()
        if self._recorder is not None:
            self._recorder.end()
        self._reporter.end()
        self._conclusion.tell(verbose=self._asked.verbose)
        self._tracer.check_probes()

    def _report_at_intervals(self, meter: Meter) -> str | None:
        """Returns why a final report is due, or None when the last one was written."""
        due_s, intervals = time.monotonic() + self._asked.interval_s, 0
        with selectors.DefaultSelector() as selector:
            for descriptor in self._descriptors():
                selector.register(descriptor, selectors.EVENT_READ)
            while True:
                look_s = self._tracer.next_look_s()
                wake_s = due_s if look_s is None else min(due_s, look_s)
                ready = selector.select(max(wake_s - time.monotonic(), 0))
                readable = {key.fd for key, _ in ready}
                self._pump()
                is_asked = self._interrupts.take_report_request()
                reason = self._why_to_end(readable, selector)
                if reason is not None:
                    return reason
                if look_s is not None and time.monotonic() >= look_s:
                    self._tracer.look_again()
                if self._marks is not None and self._marks.are_asked(readable):
                    self._cost = meter.measure()
                    self._marks.answer(self._mark)
                if self._live is not None:
                    action = self._live.look()
                    if action == _QUIT:
                        return "ended by the user"
                    is_asked = is_asked or action == _REPORT
                    self._forget_gone_keys(selector)
                if is_asked:
                    self._cost = meter.measure()
                    self._report()
                if time.monotonic() >= due_s:
                    intervals += 1
                    # A report that took longer than an interval does not shorten the next ones.
                    due_s = max(due_s, time.monotonic() - self._asked.interval_s / 2)
                    due_s += self._asked.interval_s
                    if self._is_last_interval(meter.measure(), intervals):
                        return None

    def _descriptors(self) -> Iterator[int]:
        """Readable when there is something to do."""
        yield from self._interrupts.filenos()
        for stream in self._tracer.streams():
            yield stream.fileno()
        self._keys = None if self._live is None else self._live.fileno()
        for one in (self._tracer.end_fileno(), self._tracer.probes_fileno(), self._keys):
            if one is not None:
                yield one
        if self._marks is not None:
            yield from self._marks.filenos()

    def _why_to_end(
        self, readable: Collection[int], selector: selectors.BaseSelector
    ) -> str | None:
        """Why a final report is due; None: it isn't."""
        if self._tracer.end_fileno() in readable and self._tracer.has_ended():
            return TARGET_ENDED
        if self._tracer.probes_fileno() in readable:
            return "its probes were detached unexpectedly"
        signals = self._interrupts.filenos()
        if self._interrupts.was_left_to_command():
            selector.unregister(signals[-1])
            notify("Ctrl-C: the command got it, too, and is traced until it ends")
            hint("press Ctrl-C again to end it, after a final report")
        received = self._interrupts.received
        return None if received is None else f"interrupted ({received.name})"

    def _forget_gone_keys(self, selector: selectors.BaseSelector) -> None:
        """The terminal may be closed while the run goes on."""
        if self._live is not None and self._keys is not None and self._live.fileno() is None:
            selector.unregister(self._keys)
            self._keys = None

    def _is_last_interval(self, cost: Cost, intervals: int) -> bool:
        """Report an interval. Returns whether it was the last one."""
        self._cost = cost
        if self._limit is not None and self._limit.must_stop(cost):
            self._report("tracing costs more than --max-overhead allows")
            notify("detached: even with sampling, tracing costs more than --max-overhead allows")
            hint("try --sample-bytes with a larger number, or --faults")
            return True
        if intervals == self._asked.count:
            self._report("")
            return True
        if not self._asked.trace:
            self._report()
        if self._limit is not None:
            self._limit.throttle_if_due(cost)
        return False

    def _pump(self) -> None:
        interrupted = self._interrupts.received is not None
        calls, executed = self._tracer.pump(self._calls_left if interrupted else None)
        if executed:
            self._reports.forget()
        self._print(calls)

    def _print(self, calls: TracedCalls) -> None:
        """Print traced calls; after a signal only a limited number of them."""
        left = len(calls)
        self._left_out = calls.left_out
        for piece in calls.pieces(_CALLS_AT_ONCE):
            if self._interrupts.received is not None:
                self._calls_left -= len(piece)
                if self._calls_left < 0:
                    self._calls_left = 0
                    self._unprinted += left
                    return
            with self._output.calls(len(piece)):
                self._reporter.events(piece)
            left -= len(piece)

    def _mark(self, name: str) -> Marked:
        """Make a report for a mark."""
        assert self._recorder is not None
        with self._recorder.marked(name):
            report = self._report()
        marked = Marked(report.number, self._recorder.failure)
        if marked.failure is None:
            notify(f"marked as {name}: report {report.number}")
        else:
            notify(f"the mark {name} is not recorded: {marked.failure}")
        return marked

    def _report(self, final_reason: str | None = None) -> Report:
        if final_reason is not None:
            self._output.settle()
        with progress("reading the maps, and making a report of them"):
            report = self._reports.build(final_reason)
        self._conclusion.see(report)
        losses = (*report.losses, unprinted_calls(self._unprinted + self._left_out))
        report = replace(report, losses=losses, cost=self._cost)
        if self._recorder is not None:
            self._recorder.report(report)
            report = with_top(report, self._asked.top)
        missing = missing_output(self._output.missing)
        self._reporter.report(replace(report, losses=(*report.losses, *missing)))
        return report


def _subject(info: TargetInfo) -> str:
    if len(info.pids) > 1:
        return f"{len(info.pids)} processes"
    return "the kernel" if info.kind == "kernel" else f"pid {info.pid}"


def _schedule(asked: ReportOptions) -> str:
    """When reports are due. It shows an interval that was meant as something else."""
    every, count = units.interval(asked.interval_s), asked.count
    if asked.trace:
        if count is None:
            return "one report, at the end"
        return f"one report, after {every if count == 1 else f'{count:,} times {every}'}"
    if count is None:
        return f"a report every {every}"
    return f"one report, after {every}" if count == 1 else f"{count:,} reports, one every {every}"
