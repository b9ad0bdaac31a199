"""Reads a recording, or the stream of `--format json`, one report at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

from leaktrace.analysis.go_sites import go_sites
from leaktrace.go_report import GoReport
from leaktrace.model import MissingReports, Report, ReportTime
from leaktrace.printable import printable
from leaktrace.recording.changes import SiteState
from leaktrace.recording.fields import Fields, MalformedError, parsed_object
from leaktrace.recording.format import (
    RECORDING,
    Object,
    site_lists,
)
from leaktrace.recording.gaps import MOST_TOLD, Gap, gap_from, local, more_in_words
from leaktrace.recording.go_report_values import go_held_from, go_report_from
from leaktrace.recording.recorded_sites import aged, as_json
from leaktrace.recording.report_values import report_from, time_from
from leaktrace.recording.site_values import forget_frames, site_from, stack_from
from leaktrace.recording.streams import CutOffError, NotReadableError, read_lines
from leaktrace.report.go_json import GO_SCHEMA
from leaktrace.report.json_lines import REPORT_SCHEMA
from leaktrace.site import Site, Stack

_NAME_IT = "name a file that leaktrace --record, or --format json, has written"
_Value = TypeVar("_Value")
_MOST_MARKS = 10_000
_MOST_FRAMES = 32_000_000  # in all stacks together, at a time


@dataclass(frozen=True)
class Mark:
    """A moment that somebody has named."""

    name: str
    time: datetime
    elapsed_s: float
    report: int  # the number of the report that was made for it


@dataclass(frozen=True)
class Header:
    """What a recording says about itself; a stream of `--format json` has none."""

    time: datetime
    version: str  # of leaktrace
    host: Object
    target: Object
    options: Object


@dataclass(frozen=True)
class Moment:
    """A report of a recording, whose sites are not put together until they are asked for."""

    number: int
    time: datetime
    elapsed_s: float
    outstanding_bytes: int  # of objects without sizes, their number
    is_final: bool
    _build: Callable[[], Report]
    _go: Callable[[], GoReport] | None = None

    def report(self) -> Report:
        """The report with all its sites. Ask before the next moment is taken. Raises
        NotReadableError."""
        return self._build()

    def go_report(self) -> GoReport:
        """The whole report, of a recording that `is_of_go`. Raises NotReadableError."""
        assert self._go is not None
        return self._go()


@dataclass
class Recording:
    """A file that is read from its beginning, as often as it is asked for its reports."""

    path: Path
    header: Header | None
    marks: list[Mark] = field(default_factory=list)  # as far as it was read
    problems: list[str] = field(default_factory=list)  # the same: what is missing, a sentence each
    is_of_go: bool = False  # the stream of `leaktrace go --format json`
    gaps: list[Gap] = field(default_factory=list)  # the same: the reports that are missing

    def moments(self) -> Iterator[Moment]:
        """All reports, from the first line on. Raises NotReadableError."""
        self.marks, self.problems, self.gaps = [], [], []
        yield from _Reading(self).moments()

    def reports(self) -> Iterator[Report]:
        """All reports with their sites, one in memory at a time. Raises NotReadableError."""
        return (moment.report() for moment in self.moments())


def read_recording(path: Path) -> Recording:
    """Open a recording. Raises NotReadableError if it is none, or a newer one."""
    shown = printable(str(path))
    try:
        first = next(iter(read_lines(path)))
        line = parsed_object(first)
        schema = Fields(line, "the first line").text("schema")
        _refuse_newer(schema, shown)
        if schema == RECORDING:
            return Recording(path, _header(Fields(line, "the first line")))
        if schema in (REPORT_SCHEMA, GO_SCHEMA) or schema.startswith("leaktrace/event/"):
            return Recording(path, None, is_of_go=schema == GO_SCHEMA)
    except StopIteration:
        raise NotReadableError(
            f"{shown} is empty: nothing was recorded, or the disk was full", _NAME_IT
        ) from None
    except CutOffError:
        raise NotReadableError(f"{shown} was cut off before its first report", _NAME_IT) from None
    except MalformedError:
        pass
    raise NotReadableError(f"{shown} is not a recording", _NAME_IT)


def _refuse_newer(schema: str, shown: str) -> None:
    name, _, version = schema.rpartition("/")
    known = {one.rpartition("/")[0] for one in (RECORDING, REPORT_SCHEMA, GO_SCHEMA)}
    if name in known and version.isdecimal() and len(version) < 10 and int(version) > 1:
        raise NotReadableError(
            f"{shown} was made by a newer leaktrace: its format has version {version}, this one "
            "reads version 1",
            "use that version of leaktrace",
        )


def _header(fields: Fields) -> Header:
    return Header(
        time_from(fields),
        fields.text("leaktrace"),
        fields.values("host"),
        fields.values("target"),
        fields.values("options"),
    )


class _Reading:
    """One pass through a recording."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._shown = printable(str(recording.path))
        self._stacks: dict[int, Stack] = {}
        self._frames = 0
        self._lists: dict[str, SiteState] = {}
        self._built: dict[str, dict[int, Site]] = {}
        self._line = 0
        self._last: ReportTime | None = None  # the last report
        self._reports = 0
        self._has_ended = False

    def moments(self) -> Iterator[Moment]:
        try:
            for line in read_lines(self._recording.path):
                self._line += 1
                moment = self._checked(partial(self._take, line))
                if moment is not None:
                    yield moment
        except CutOffError:
            self._cut_off()
            return
        if self._recording.header is not None and not self._has_ended:
            self._cut_off()

    def _cut_off(self) -> None:
        last = self._last
        after = "before its first report"
        if last is not None:
            after = f"after report {last.number} ({local(last.time)})"
        self._recording.problems.append(
            f"the recording was cut off {after}, or is still being written"
        )

    def _checked(self, take: Callable[[], _Value]) -> _Value:
        try:
            return take()
        except MalformedError as error:
            raise NotReadableError(
                f"{self._shown}, line {self._line}: {error}",
                "it was damaged, or not written by leaktrace",
            ) from None

    def _take(self, line: bytes) -> Moment | None:
        value = parsed_object(line)
        fields = Fields(value, "the line")
        schema = fields.text("schema")
        if schema == RECORDING and self._line > 1:
            raise NotReadableError(
                f"{self._shown} has two recordings, one after the other: the second one begins at "
                f"line {self._line}",
                "split it: each can be read alone",
            )
        match schema:
            case "leaktrace/stack/1":
                self._take_stack(fields)
            case "leaktrace/forget/1":
                self._forget_unused()
            case "leaktrace/mark/1":
                self._take_mark(fields)
            case "leaktrace/changes/1":
                return self._take_changes(value, fields)
            case "leaktrace/go/1":
                self._tell_skipped(_report_time(fields))
                held = go_held_from(fields)
                moment = self._moment(fields, held, lambda: go_sites(go_report_from(fields)))
                return replace(moment, _go=partial(self._checked, lambda: go_report_from(fields)))
            case "leaktrace/report/1":
                for one in fields.objects("missing_reports"):
                    self._tell(gap_from(one, self._reports, _report_time))
                return self._moment(fields, _held_from(fields), lambda: report_from(value))
            case "leaktrace/end/1":
                self._has_ended = True
                self._tell_missed(fields, None)
        return None  # other lines: traced calls, and what newer versions add

    def _take_stack(self, fields: Fields) -> None:
        stack = stack_from(fields)
        number = fields.integer("stack")
        self._frames += len(stack.frames) + 1
        if self._frames > _MOST_FRAMES:
            raise MalformedError(f"its stacks have more than {_MOST_FRAMES:,} frames")
        if self._stacks.get(number, stack) != stack:
            raise MalformedError(f"there are two stacks with the number {number}")
        self._stacks[number] = stack

    def _forget_unused(self) -> None:
        """The writer no longer refers to the stacks that no site of the last report has. So memory
        does not grow with the length of a recording."""
        used = {number for state in self._lists.values() for number in state.stacks()}
        self._stacks = {number: self._stacks[number] for number in used & self._stacks.keys()}
        self._frames = sum(len(stack.frames) + 1 for stack in self._stacks.values())
        forget_frames()

    def _take_mark(self, fields: Fields) -> None:
        marks = self._recording.marks
        if len(marks) < _MOST_MARKS:
            marks.append(
                Mark(
                    fields.text("name"),
                    time_from(fields),
                    fields.number("elapsed_s"),
                    fields.integer("report"),
                )
            )

    def _take_changes(self, value: Object, fields: Fields) -> Moment:
        self._tell_missed(fields, _report_time(fields))
        if fields.flag("whole", default=False):
            self._lists, self._built = {}, {}
        lists = {}
        for name, part in site_lists(value):
            state = lists[name] = self._lists.get(name) or SiteState()
            state.apply(Fields(part, f"the report{' ' if name else ''}{name}"))
        self._lists = lists
        self._built = {name: self._built.get(name, {}) for name in lists}
        return self._moment(fields, _held_from(fields), lambda: self._build(value))

    def _moment(self, fields: Fields, held: int, build: Callable[[], Report]) -> Moment:
        last = self._last = _report_time(fields)
        self._reports += 1
        return Moment(
            last.number,
            last.time,
            last.elapsed_s,
            held,
            fields.flag("final"),
            partial(self._checked, build),
        )

    def _tell_missed(self, fields: Fields, before: ReportTime | None) -> None:
        """`before`: the report that comes after those that are missing."""
        missed = fields.integer("missed", 0)
        if missed > 0:
            self._tell(Gap(self._reports, MissingReports(missed, self._last, before)))

    def _tell_skipped(self, report: ReportTime) -> None:
        """What `leaktrace go` writes says nothing of missing reports, but numbers them all."""
        last = self._last
        skipped = report.number - (0 if last is None else last.number) - 1
        if skipped > 0:
            missing = MissingReports(skipped, last, report)
            self._tell(Gap(self._reports, missing, "numbers are skipped there"))

    def _tell(self, gap: Gap) -> None:
        gaps, problems = self._recording.gaps, self._recording.problems
        gaps.append(gap)
        if len(gaps) <= MOST_TOLD:
            problems.append(gap.in_words())
            return
        if len(gaps) > MOST_TOLD + 1:
            problems.pop()
        problems.append(more_in_words(gaps[MOST_TOLD:]))

    def _build(self, value: Object) -> Report:
        """The report, whose lists of sites are those that have become of them."""
        fields = Fields(value, "the report")
        sort, elapsed_ns = fields.text("sort"), fields.integer("elapsed_ns")
        sites: list[Site] = []
        for name, part in site_lists(value):
            own = self._sites(name, sort, elapsed_ns)
            part["sites"] = [{"at": at} for at in range(len(sites), len(sites) + len(own))]
            sites += own
        return report_from(value, lambda one: sites[one.integer("at")])

    def _sites(self, name: str, sort: str, elapsed_ns: int) -> list[Site]:
        state, built = self._lists[name], self._built[name]
        for number in state.changed:
            site = Fields(as_json(state.sites[number]), "a site")
            built[number] = site_from(site, self._stack)
        state.changed.clear()
        for number in built.keys() - state.sites.keys():
            del built[number]
        return [
            aged(built[number], state.sites[number], state.growth.get(number), elapsed_ns)
            for number in state.order(sort)
        ]

    def _stack(self, fields: Fields) -> Stack:
        number = fields.integer("stack")
        if number not in self._stacks:
            raise MalformedError(f"stack {number} was not described before")
        return self._stacks[number]


def _held_from(fields: Fields) -> int:
    outstanding = fields.inner("outstanding")
    return outstanding.integer("bytes", outstanding.integer("count"))


def _report_time(fields: Fields) -> ReportTime:
    return ReportTime(fields.integer("number"), time_from(fields), fields.number("elapsed_s"))
