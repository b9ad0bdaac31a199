"""One run of the ranking of all processes: a look at the start, and one at each interval."""

from __future__ import annotations

import selectors
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

from leaktrace import units
from leaktrace.notices import notify
from leaktrace.options import RankingOptions
from leaktrace.own.interrupts import Interrupts
from leaktrace.ranking.ranker import open_ranker
from leaktrace.report import Output, create_ranking_reporter
from leaktrace.tracing.program_cost import ProgramCostMeter


def run_ranking(options: RankingOptions, output: Output, interrupts: Interrupts) -> int:
    """Rank until the requested reports are written, or a signal comes. Returns the exit code.

    Raises LeaktraceError.
    """
    asked = options.report
    reporter = create_ranking_reporter(asked.format, output.stream, sys.stderr)
    with interrupts.raised():
        ranker = open_ranker(asked)
    with closing(ranker):
        ranker.begin()
        programs = {} if ranker.pages is None else ranker.pages.programs
        meter = ProgramCostMeter(programs, measure_programs=asked.verbose and bool(programs))
        every = units.interval(asked.interval_s)
        notify(f"ranking {ranker.process_count:,} processes; a report every {every}")
        with closing(meter):
            for reason in _moments(asked.interval_s, asked.count, interrupts):
                ranking = ranker.rank(reason)
                cost = meter.measure()
                reporter.ranking(replace(ranking, cost=cost if asked.verbose else None))
    return 0


def _moments(interval_s: float, count: int | None, interrupts: Interrupts) -> Iterator[str | None]:
    """Waits for each report that is due. Yields why it is the last one; None: it isn't."""
    due_s, number = time.monotonic() + interval_s, 0
    with selectors.DefaultSelector() as selector:
        selector.register(interrupts.fileno(), selectors.EVENT_READ)
        while True:
            selector.select(max(due_s - time.monotonic(), 0))
            if interrupts.received is not None:
                yield f"interrupted ({interrupts.received.name})"
                return
            if time.monotonic() < due_s:
                continue
            number += 1
            yield "" if number == count else None
            if number == count:
                return
            # A look that took longer than an interval does not shorten the next ones.
            due_s = max(due_s, time.monotonic() - interval_s / 2) + interval_s
