"""One run, from the probes to the final report:

target -> probe plan -> BPF program -> maps -> snapshot -> symbolize -> analyse -> report
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from typing import TYPE_CHECKING

from leaktrace.errors import NothingTracedError
from leaktrace.notices import hint, notify, progress
from leaktrace.options import (
    CommandTarget,
    GoOptions,
    KernelOptions,
    Options,
    ProcessOptions,
    RankingOptions,
    ReportOptions,
)
from leaktrace.own import descriptors
from leaktrace.own.interrupts import Interrupts, NothingToEndError
from leaktrace.own.oom import OWN_SCORE
from leaktrace.process.probes.passed_over import OnlyGoError
from leaktrace.process.reports import ProcessReports
from leaktrace.process.setup import open_tracer
from leaktrace.report import GO_FORMATS, Output, Reporter, create_reporter, open_output
from leaktrace.session.conclusion import Conclusion
from leaktrace.session.loop import Run
from leaktrace.session.overhead import OverheadLimit
from leaktrace.session.recorder import Recorder, opened_recorder

if TYPE_CHECKING:
    from leaktrace.live.reporter import LiveReporter


def run(options: Options) -> int:
    """Trace until the target ends, the requested reports are written, or a signal comes.

    Returns the exit code: 0, or what --exit-code asked for. Raises LeaktraceError, and
    BrokenPipeError when the reader of the reports has closed the pipe.
    """
    descriptors.raise_limit()
    OWN_SCORE.begin()
    asked = options.report
    recorded = None if isinstance(options, RankingOptions) else options
    with (
        Interrupts() as interrupts,
        open_output(asked.output, keep=asked.keep, is_ending=interrupts.is_received) as output,
        nullcontext() if recorded is None else opened_recorder(recorded) as recorder,
    ):
        try:
            if isinstance(options, KernelOptions):
                return _run_kernel(options, output, interrupts, recorder)
            if isinstance(options, RankingOptions):
                from leaktrace.session.ranking import run_ranking  # noqa: PLC0415

                return run_ranking(options, output, interrupts)
            return _run_process(options, output, interrupts, recorder)
        except NothingToEndError:
            assert interrupts.received is not None
            raise NothingTracedError(
                f"interrupted ({interrupts.received.name}) before tracing began",
                "nothing was recorded: run it again",
            ) from None


def _run_kernel(
    options: KernelOptions, output: Output, interrupts: Interrupts, recorder: Recorder | None
) -> int:
    # Imported here, because the modules of kernel mode take hundredths of a second.
    from leaktrace.kernel.reports import KernelReports  # noqa: PLC0415
    from leaktrace.kernel.setup import open_kernel_tracer  # noqa: PLC0415

    with interrupts.raised(), progress("loading the programs, and attaching"):
        tracer = open_kernel_tracer(options)
    with closing(tracer), _reporter(options.report, output) as (reporter, live):
        reports = KernelReports(options, tracer)
        conclusion = Conclusion(options.leak_exit, options.suppressions)
        one = Run(
            options.report,
            tracer,
            reports,
            reporter,
            interrupts,
            output=output,
            conclusion=conclusion,
            recorder=recorder,
            live=live,
        )
        one.until_the_end()
    return conclusion.exit_status(_status_of(recorder))


def _run_process(
    options: ProcessOptions, output: Output, interrupts: Interrupts, recorder: Recorder | None
) -> int:
    try:
        with interrupts.raised(), progress("finding what to hook, and attaching"):
            tracer = open_tracer(options, interrupted=interrupts.is_received)
    except OnlyGoError as error:
        asked = _asked_of_go(options)
        if asked is None:
            raise
        from leaktrace.session.go import report_on_go  # noqa: PLC0415 (few runs need it)

        notify(error.message)
        hint(f"its goroutines and its heap follow instead, as `leaktrace go -p {asked.pid}` shows")
        return report_on_go(asked, output, interrupts)
    with closing(tracer), _reporter(options.report, output) as (reporter, live):
        reports = ProcessReports(options, tracer)
        percent = options.max_overhead_percent
        limit = None if percent is None else OverheadLimit(percent, reports)
        first = tracer.first
        command = first.command
        process = None if command is None else first.process
        argv = () if command is None else command.argv
        conclusion = Conclusion(options.leak_exit, options.suppressions)
        one = Run(
            options.report,
            tracer,
            reports,
            reporter,
            interrupts,
            output=output,
            conclusion=conclusion,
            argv=argv,
            command=process,
            limit=limit,
            recorder=recorder,
            live=live,
        )
        one.until_the_end()
    if command is not None and options.command is not None and options.command.pass_exit_code:
        return conclusion.exit_status(command.wait() or _status_of(recorder))
    return conclusion.exit_status(_status_of(recorder))


@contextmanager
def _reporter(
    asked: ReportOptions, output: Output
) -> Iterator[tuple[Reporter, LiveReporter | None]]:
    """The reporter, and the same again if it is a live view."""
    if asked.live:
        from leaktrace.live.reporter import open_live  # noqa: PLC0415 (few runs need it)

        live = open_live(output.stream)
        if live is not None:
            with live:
                yield live, live
            return
    name = asked.format
    yield create_reporter(name, output.stream, sys.stderr, quantity=asked.quantity), None


def _status_of(recorder: Recorder | None) -> int:
    """1 if a recording misses reports."""
    return int(recorder is not None and recorder.has_gaps)


def _asked_of_go(options: ProcessOptions) -> GoOptions | None:
    """The same for a program in which only Go allocates; None if it can't be asked of that."""
    asked, target = options.report, options.target
    is_about_blocks = options.lost or options.heap or options.contents or options.idle_s
    is_about_more = options.record or options.fds or options.pairs or options.suppressions
    if isinstance(target, CommandTarget) or len(target.pids) != 1:
        return None
    if asked.live or asked.trace or is_about_blocks or is_about_more:
        return None
    if asked.format not in GO_FORMATS:
        return None
    return GoOptions(
        pid=target.pids[0],
        interval_s=asked.interval_s,
        count=asked.count,
        top=asked.top,
        format=asked.format,
        output=asked.output,
        leak_exit=options.leak_exit,
    )
