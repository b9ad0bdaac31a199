"""One run of `leaktrace go`: a look at the start, and one at each interval."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator
from contextlib import closing

from leaktrace import units
from leaktrace.analysis.go_reports import with_top
from leaktrace.errors import NothingTracedError, TargetError
from leaktrace.go_report import GoReport
from leaktrace.model import TARGET_ENDED
from leaktrace.notices import notify
from leaktrace.options import GoOptions, GoProfile
from leaktrace.own.interrupts import Interrupts, NothingToEndError
from leaktrace.printable import printable
from leaktrace.process.go_looks import GoLooks
from leaktrace.report import Output, create_go_reporter, open_output
from leaktrace.session.conclusion import Conclusion
from leaktrace.session.go_profile import profile_on, repair
from leaktrace.session.go_recorder import GoRecorder, opened_go_recorder
from leaktrace.session.moments import moments
from leaktrace.targets.process import Process

_SWITCHED_ON = (
    "--go-enable-profile: allocation sites are those of what was allocated since it was switched on"
)


def run_go(options: GoOptions) -> int:
    """Report until the process ends, the requested reports are written, or a signal comes.

    Returns the exit code. Raises LeaktraceError, and BrokenPipeError when the reader of the reports
    has closed the pipe.
    """
    with (
        Interrupts() as interrupts,
        open_output(options.output, is_ending=interrupts.is_received) as output,
        opened_go_recorder(options.record) as recorder,
    ):
        try:
            return report_on_go(options, output, interrupts, recorder)
        except NothingToEndError:
            raise NothingTracedError(
                "interrupted before the first look", "nothing was seen: run it again"
            ) from None


def report_on_go(
    options: GoOptions, output: Output, interrupts: Interrupts, recorder: GoRecorder | None = None
) -> int:
    """The same for an output that is open. Raises NothingToEndError, too."""
    conclusion = Conclusion(options.leak_exit, ())
    reporter = create_go_reporter(
        options.format,
        output.stream,
        sys.stderr,
        profile=options.profile,
        quantity=options.quantity,
    )
    with interrupts.raised():
        process = Process(options.pid)
    # The reports are closed on every path: there may be something to put back.
    with closing(process), closing(_reports(process, options, interrupts)) as reports:
        for report in reports:
            if recorder is not None:
                recorder.report(report)
            reporter.go(with_top(report, options.top))
            conclusion.see_go(report)
        reporter.end()
    conclusion.tell(verbose=False)
    return conclusion.exit_status(1 if recorder is not None and recorder.missed else 0)


def _reports(process: Process, options: GoOptions, interrupts: Interrupts) -> Generator[GoReport]:
    # Before anything that can fail.
    repair(process)
    with interrupts.raised():
        # A recording has everything.
        top = options.top if options.record is None else sys.maxsize
        watched = GoLooks(process, top, sample_refills=options.sample_refills)
    with closing(watched):
        yield from _switched_on(watched, process, options, interrupts)


def _switched_on(
    watched: GoLooks, process: Process, options: GoOptions, interrupts: Interrupts
) -> Generator[GoReport]:
    if options.profile_rate_bytes is None:
        yield from _looks(watched, process, options, interrupts)
        return
    with profile_on(process, watched.heap, options.profile_rate_bytes, interrupts) as was_off:
        if was_off:
            watched.notes = (*watched.notes, _SWITCHED_ON)
        yield from _looks(watched, process, options, interrupts)


def _require_profile(watched: GoLooks, process: Process) -> None:
    """Raises TargetError where the Go runtime keeps no profile of its heap."""
    heap = watched.heap_look
    if heap is None:
        why = next(iter(watched.notes), "its heap was not found")
        raise TargetError(
            f"there is no profile of the heap of process {process.pid}: {why}",
            "-f text shows its goroutines, and --profile goroutine writes them",
        )
    if heap.profile is None:
        why = heap.profile_problem.removeprefix("not known: ").partition("; --go-")[0]
        raise TargetError(
            f"process {process.pid} keeps no profile of its heap: {why}",
            f"leaktrace go -p {process.pid} 10 6 --go-enable-profile switches it on for a minute, "
            "which writes one word to the process; --profile goroutine needs none",
        )


def _looks(
    watched: GoLooks, process: Process, options: GoOptions, interrupts: Interrupts
) -> Generator[GoReport]:
    with interrupts.raised():
        watched.look()
    if options.profile is GoProfile.HEAP:
        _require_profile(watched, process)
    if options.interval_s is None:
        yield watched.reports.build(
            number=1, command=process.read_name(), reason="", notes=watched.notes
        )
        return
    count = options.count
    every = units.interval(options.interval_s)
    schedule = f"a report every {every}" if count != 1 else f"one report, after {every}"
    version = printable(watched.program.version.text)
    notify(f"looked at the goroutines of pid {process.pid} ({version}); {schedule}")
    due = moments(options.interval_s, count, interrupts, process)
    for number, reason in enumerate(due, 1):
        why, age_s = reason, 0.0
        try:
            watched.look()
        except TargetError:
            if process.is_alive():
                raise
            why, age_s = TARGET_ENDED, time.monotonic() - watched.look_s
        yield watched.reports.build(
            number=number,
            command=process.read_name(),
            reason=why,
            look_age_s=age_s,
            notes=watched.notes,
        )
        if age_s:
            return
