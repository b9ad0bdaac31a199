"""All samples by name, and what a format makes of reports and events."""

from __future__ import annotations

import io
from dataclasses import replace

from sample_families import BY_PROCESS, FAMILY, WORKERS
from sample_go_summaries import GO, GO_OF_OLD
from sample_heaps import OLDER, OLDER_OF_TWO
from sample_regions import REGIONS
from sample_reports import (
    BUSY,
    CACHE,
    COMBINED,
    INCOMPLETE,
    KERNEL,
    NO_LOSSES,
    PARSE,
    QUIET,
    SAMPLED,
    SUPPRESSED,
    WEIGHTED,
)
from sample_sections import DESCRIPTORS, MEMORY, PAIRS

from leaktrace.model import Event, EventKind, Report
from leaktrace.report import create_reporter

REPORTS = {
    "older": replace(QUIET, older_blocks=OLDER),
    "older_of_two": replace(FAMILY, older_blocks=OLDER_OF_TWO),
    "go": replace(BUSY, go=(GO,)),
    "go_of_two": replace(FAMILY, go=(GO, GO_OF_OLD)),
    "busy": BUSY,
    "quiet": QUIET,
    "combined": COMBINED,
    "sampled": SAMPLED,
    "weighted": WEIGHTED,
    "kernel": KERNEL,
    "incomplete": INCOMPLETE,
    "suppressed": SUPPRESSED,
    "family": FAMILY,
    "by_process": BY_PROCESS,
    "workers": WORKERS,
    "memory": MEMORY,
    "regions": REGIONS,
    "descriptors": DESCRIPTORS,
    "only_descriptors": replace(
        DESCRIPTORS.sections[0], losses=NO_LOSSES, sections=(), allocations=None
    ),
    "pairs": PAIRS,
    "only_pairs": replace(
        PAIRS.sections[1], losses=NO_LOSSES, sections=PAIRS.sections[2:], allocations=None
    ),
}


EVENTS = (
    Event(
        12_345_678_901_234, 4242, EventKind.ALLOCATE, "malloc", 128, 0x55D0C0DE1234, PARSE.frames
    ),
    Event(12_345_678_950_000, 4243, EventKind.RELEASE, "free", None, 0x55D0C0DE1234),
    Event(12_345_679_000_000, 4242, EventKind.FAIL, "posix_memalign", 1 << 40, 0, CACHE.frames),
)


def rendered(format_name: str, *reports: Report) -> str:
    output = io.StringIO()
    reporter = create_reporter(format_name, output, io.StringIO())
    for report in reports:
        reporter.report(report)
    reporter.end()
    return output.getvalue()


def rendered_events(format_name: str, *events: Event) -> str:
    output = io.StringIO()
    create_reporter(format_name, output, io.StringIO()).events(events)
    return output.getvalue()
