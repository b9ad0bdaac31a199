"""One run of the ranking of all processes: a look at the start, and one at each interval."""

from __future__ import annotations

import sys
from contextlib import closing
from dataclasses import replace

from leaktrace import units
from leaktrace.notices import notify
from leaktrace.options import RankingOptions
from leaktrace.own.interrupts import Interrupts
from leaktrace.ranking.ranker import open_ranker
from leaktrace.report import Output, create_ranking_reporter
from leaktrace.session.moments import moments
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
            for reason in moments(asked.interval_s, asked.count, interrupts):
                ranking = ranker.rank(reason)
                cost = meter.measure()
                reporter.ranking(replace(ranking, cost=cost if asked.verbose else None))
    return 0
