"""Which reports are missing in a recording, because they could not be written, and when."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from leaktrace.model import MissingReports, Report, ReportTime
from leaktrace.recording.fields import Fields
from leaktrace.units import counted

MOST_TOLD = 10  # gaps, in sentences; JSON has all


@dataclass(frozen=True)
class Gap:
    """Reports that are missing between two of a recording."""

    at: int  # so many reports are before it
    missing: MissingReports
    why: str = "the recording could not be written"

    def in_words(self) -> str:
        """A sentence with the times between which they are missing."""
        one = self.missing
        reports = "one report is" if one.count == 1 else f"{one.count:,} reports are"
        if one.after is None and one.before is None:
            where = ""
        elif one.after is None:
            where = f" before {_named(one.before)}, the first one"
        elif one.before is None:
            where = f" after {_named(one.after)}, the last one"
        else:
            where = f" between {_named(one.after)} and {_named(one.before)}"
        return f"{reports} missing{where}: {self.why}"


def local(time: datetime) -> str:
    """A time as people read it here."""
    return f"{time.astimezone():%Y-%m-%d %H:%M:%S}"


def _named(report: ReportTime | None) -> str:
    return "" if report is None else f"report {report.number} ({local(report.time)})"


def more_in_words(gaps: Iterable[Gap]) -> str:
    """About the gaps for which there is no sentence."""
    counts = [gap.missing.count for gap in gaps]
    reports = counted(sum(counts), "more report")
    verb = "is" if sum(counts) == 1 else "are"
    return f"{reports} {verb} missing at {counted(len(counts), 'other time')}: -f json lists all"


def gap_from(fields: Fields, at: int, time_of: Callable[[Fields], ReportTime]) -> Gap:
    """A gap as a report of `leaktrace show -f json` tells it; so many reports were read before
    that report. Raises MalformedError."""
    after, before = (fields.optional(key, time_of) for key in ("after", "before"))
    missing = MissingReports(max(fields.integer("count"), 1), after, before)
    return Gap(at + 1 if before is None else at, missing)


def with_gaps(report: Report, gaps: Iterable[Gap]) -> Report:
    """The report, saying that these reports are missing."""
    return replace(report, missing_reports=tuple(gap.missing for gap in gaps))
