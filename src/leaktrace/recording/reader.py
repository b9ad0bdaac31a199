"""Reads a recording, or the stream of `--format json`, one report at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

from leaktrace.model import Report, Site, Stack
from leaktrace.printable import printable
from leaktrace.recording.changes import SiteState
from leaktrace.recording.fields import Fields, MalformedError, parsed_object
from leaktrace.recording.format import (
    FREED,
    RECORDING,
    Object,
    site_lists,
    usually_freed,
)
from leaktrace.recording.go_report_values import go_report_from
from leaktrace.recording.report_values import report_from, time_from
from leaktrace.recording.site_values import site_from, stack_from
from leaktrace.recording.streams import CutOffError, NotReadableError, read_lines
from leaktrace.report.go_json import GO_SCHEMA
from leaktrace.report.json_lines import REPORT_SCHEMA

_NAME_IT = "name a file that leaktrace --record, or --format json, has written"
_Value = TypeVar("_Value")
_MOST_MARKS = 10_000
_MOST_FRAMES = 32_000_000  # in all stacks together
_MOST_POWERS = 65


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

    def report(self) -> Report:
        """The report with all its sites. Ask before the next moment is taken. Raises
        NotReadableError."""
        return self._build()


@dataclass
class Recording:
    """A file that is read from its beginning, as often as it is asked for its reports."""

    path: Path
    header: Header | None
    marks: list[Mark] = field(default_factory=list)  # as far as it was read
    problems: list[str] = field(default_factory=list)  # the same: what is missing, a sentence each
    is_of_go: bool = False  # the stream of `leaktrace go --format json`

    def moments(self) -> Iterator[Moment]:
        """All reports, from the first line on. Raises NotReadableError."""
        self.marks, self.problems = [], []
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
        self._last = 0  # the number of the last report
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
        after = f"after report {self._last}" if self._last else "before its first report"
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
            case "leaktrace/mark/1":
                self._take_mark(fields)
            case "leaktrace/changes/1":
                return self._take_changes(value, fields)
            case "leaktrace/go/1":
                report = go_report_from(fields)
                self._last = report.number
                held = report.outstanding.bytes
                return Moment(
                    report.number,
                    report.time,
                    report.elapsed_s,
                    held,
                    report.final,
                    lambda: report,
                )
            case "leaktrace/report/1":
                return self._moment(fields, lambda: report_from(value))
            case "leaktrace/end/1":
                self._has_ended = True
                self._tell_missed(fields)
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
        self._tell_missed(fields)
        if fields.flag("whole", default=False):
            self._lists, self._built = {}, {}
        lists = {}
        for name, part in site_lists(value):
            state = lists[name] = self._lists.get(name) or SiteState()
            state.apply(Fields(part, f"the report{' ' if name else ''}{name}"))
        self._lists = lists
        self._built = {name: self._built.get(name, {}) for name in lists}
        return self._moment(fields, lambda: self._build(value))

    def _moment(self, fields: Fields, build: Callable[[], Report]) -> Moment:
        outstanding = fields.inner("outstanding")
        self._last = fields.integer("number")
        return Moment(
            self._last,
            time_from(fields),
            fields.number("elapsed_s"),
            outstanding.integer("bytes", outstanding.integer("count")),
            fields.flag("final"),
            partial(self._checked, build),
        )

    def _tell_missed(self, fields: Fields) -> None:
        missed = fields.integer("missed", 0)
        if missed:
            reports = "one report is" if missed == 1 else f"{missed:,} reports are"
            after = f" after report {self._last}" if self._last else ""
            self._recording.problems.append(
                f"{reports} missing{after}: the recording could not be written"
            )

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
            site = Fields(_as_json(state.sites[number]), "a site")
            built[number] = site_from(site, self._stack)
        state.changed.clear()
        for number in built.keys() - state.sites.keys():
            del built[number]
        return [
            _aged(built[number], state.sites[number], state.growth.get(number), elapsed_ns)
            for number in state.order(sort)
        ]

    def _stack(self, fields: Fields) -> Stack:
        number = fields.integer("stack")
        if number not in self._stacks:
            raise MalformedError(f"stack {number} was not described before")
        return self._stacks[number]


def _as_json(site: Object) -> Object:
    """A site as it is in a report of `--format json`, but for what depends on the time."""
    shown = {key: value for key, value in site.items() if key != "lived"}
    for freed, allocated, held in FREED:
        if freed not in shown:
            shown[freed] = usually_freed(site, allocated, held)
    if "lived" in site:
        shown["lifetimes"] = _histogram(site, "lived", "upper_bounds_ns")
    if "sizes" in site:
        shown["sizes"] = _sizes(site)
    if "examples" in site:
        examples = Fields(site, "a site").items("examples")
        shown["examples"] = [
            {**one, "age_ms": 0} if isinstance(one, dict) else one for one in examples
        ]
    return shown


def _histogram(site: Object, key: str, bounds: str) -> Object:
    """Counts by powers of two."""
    bins = _bins(site, key)
    return {bounds: [1 << power for power in bins], "counts": list(bins.values())}


def _sizes(site: Object) -> Object:
    """The sizes of blocks. The bytes of one size alone are not written: they are the site's.
    (Recordings of older versions have none.)"""
    counts = _bins(site, "sizes")
    held = site.get("bytes")
    if "size_bytes" in site:
        size_bytes = _bins(site, "size_bytes")
    elif len(counts) == 1 and type(held) is int:
        size_bytes = dict.fromkeys(counts, held)
    else:
        return _histogram(site, "sizes", "below_bytes")
    powers = sorted({**counts, **size_bytes})
    return {
        "below_bytes": [1 << power for power in powers],
        "counts": [counts.get(power, 0) for power in powers],
        "bytes": [size_bytes.get(power, 0) for power in powers],
    }


def _bins(site: Object, key: str) -> dict[int, int]:
    """What there is by powers of two, the smallest first."""
    try:
        bins = sorted((int(one), n) for one, n in Fields(site, "a site").counts(key).items())
    except ValueError:
        raise MalformedError(f"{key} of a site are not counted by powers of two") from None
    if any(not 0 <= power < _MOST_POWERS for power, _ in bins):
        raise MalformedError(f"{key} of a site are out of range")
    return dict(bins)


def _aged(site: Site, state: Object, growth: Object | None, elapsed_ns: int) -> Site:
    """A site with what depends on the time of the report."""
    fields = Fields(state, "a site")
    oldest, newest = (fields.optional_integer(key) for key in ("oldest_at_ns", "newest_at_ns"))
    examples = site.examples
    if examples:
        times = [one.integer("at_ns") for one in fields.objects("examples")]
        examples = tuple(
            replace(one, age_ns=elapsed_ns - at) for one, at in zip(examples, times, strict=True)
        )
    grown: int | None = 0
    if growth is not None:
        key = "growth_count" if fields.is_null("bytes") else "growth_bytes"
        grown = Fields(growth, "a site").optional_integer(key)
    return replace(
        site,
        oldest_ns=None if oldest is None else elapsed_ns - oldest,
        newest_ns=None if newest is None else elapsed_ns - newest,
        growth_bytes=grown,
        examples=examples,
    )
