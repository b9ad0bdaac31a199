"""One run of `leaktrace maps`: a look at the start, and one at each interval."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import closing

from leaktrace import units
from leaktrace.analysis.map_growth import MapsBuilder
from leaktrace.errors import NothingTracedError
from leaktrace.memory_map import Look, MapsReport
from leaktrace.model import TARGET_ENDED
from leaktrace.notices import notify
from leaktrace.options import MapsOptions
from leaktrace.own.interrupts import Interrupts, NothingToEndError
from leaktrace.report import create_maps_reporter, open_output
from leaktrace.session.moments import moments
from leaktrace.targets.address_space import look_at
from leaktrace.targets.process import Process
from leaktrace.targets.smaps import MappingsGoneError

_UNREADABLE = "its first thread has exited, so its mappings can't be read any more"


def run_maps(options: MapsOptions) -> int:
    """Report until the process ends, the requested reports are written, or a signal comes.

    Returns the exit code. Raises LeaktraceError, and BrokenPipeError when the reader of the reports
    has closed the pipe.
    """
    with (
        Interrupts() as interrupts,
        open_output(options.output, is_ending=interrupts.is_received) as output,
    ):
        reporter = create_maps_reporter(options.format, output.stream, sys.stderr)
        try:
            with interrupts.raised():
                process = Process(options.pid)
            with closing(process):
                for report in _reports(process, options, interrupts):
                    reporter.maps(report)
        except NothingToEndError:
            raise NothingTracedError(
                "interrupted before the first look", "nothing was seen: run it again"
            ) from None
    return 0


def _reports(
    process: Process, options: MapsOptions, interrupts: Interrupts
) -> Iterator[MapsReport]:
    builder = MapsBuilder(process.pid, options.top)
    with interrupts.raised():
        look = _look(process)
    if options.interval_s is None:
        yield builder.single(look, process.read_name())
        return
    builder.begin(look)
    mappings = units.counted(len(look.ranges), "mapping")
    count = options.count
    every = units.interval(options.interval_s)
    schedule = f"a report every {every}" if count != 1 else f"one report, after {every}"
    notify(f"looked at {mappings} of pid {process.pid}; {schedule}")
    for reason in moments(options.interval_s, count, interrupts, process):
        try:
            look = _look(process)
        except MappingsGoneError:
            ended = not process.is_alive()
            age_s = time.monotonic() - look.time_s
            why = TARGET_ENDED if ended else _UNREADABLE
            yield builder.build(look, process.read_name(), why, age_s)
            return
        yield builder.build(look, process.read_name(), reason)


def _look(process: Process) -> Look:
    """Raises TargetError; MappingsGoneError when there is nothing to see any more."""
    look = look_at(process.pid)
    # If it is still there, its id was never that of another process.
    if not process.is_alive():
        raise MappingsGoneError(
            f"process {process.pid} has ended", "check the process id (pgrep NAME)"
        )
    return look
