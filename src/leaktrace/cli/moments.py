"""RUN@WHEN: a report of a recording, as words of the command line.

run.rec            the last report
run.rec@first      the first one (@last: the last one)
run.rec@peak       the one with most memory outstanding
run.rec@12         the report with this number
run.rec@10m        the first one at least 10 minutes after tracing began
run.rec@deploy     the one that was made for this mark
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from leaktrace.errors import UsageError
from leaktrace.model import Report
from leaktrace.printable import printable
from leaktrace.recording.reader import Moment, Recording, read_recording

_FIRST, _LAST, _PEAK = "first", "last", "peak"
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400}
_TIME = re.compile(r"(\d+(?:\.\d+)?)(ms|s|min|m|h|d)")
WHEN = "@first, @last, @peak, @N (a report's number), @TIME (such as 10m) or @MARK"


@dataclass(frozen=True)
class When:
    """One report of one recording."""

    path: Path
    which: str  # what follows "@"

    @property
    def name(self) -> str:
        """As it is shown."""
        return printable(f"{self.path}@{self.which}")


def parse_when(text: str, path: Path | None = None) -> When:
    """RUN@WHEN; of a known recording, WHEN alone. A file whose name has an "@" is that file."""
    if path is not None:
        return When(path, text.removeprefix("@") or _LAST)
    if "@" not in text or _is_there(Path(text)):
        return When(Path(text), _LAST)
    name, _, which = text.rpartition("@")
    if not name or not which:
        raise UsageError(f"{printable(text)} names no report of a recording", f"RUN, or RUN{WHEN}")
    return When(Path(name), which)


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that no file can have
        return False


def reports_at(wanted: Sequence[When]) -> tuple[list[Report], list[str]]:
    """The reports, in this order, and what is missing in their recordings.

    A recording is read twice: to find the reports, and to put only these together; for the first
    and the last one, once. Raises NotReadableError, and UsageError for a report that a recording
    doesn't have.
    """
    recordings = {path: read_recording(path) for path in dict.fromkeys(one.path for one in wanted)}
    found: dict[When, Report] = {}
    problems: list[str] = []
    for path, recording in recordings.items():
        asked = [one for one in wanted if one.path == path]
        if all(one.which in (_FIRST, _LAST) for one in asked):
            found |= _ends(recording, asked)
            missing = list(recording.problems)
        else:
            places = _places(recording, asked)
            missing = list(recording.problems)
            built = _built(recording, set(places.values()))
            found |= {one: built[place] for one, place in places.items()}
        problems += [f"{printable(str(path))}: {problem}" for problem in missing]
    return [found[one] for one in wanted], problems


def _ends(recording: Recording, wanted: Sequence[When]) -> dict[When, Report]:
    first: Report | None = None
    moment: Moment | None = None
    needs_first = any(one.which == _FIRST for one in wanted)
    for moment in recording.moments():
        if needs_first and first is None:
            first = moment.report()
    if moment is None:
        raise _no_reports(recording.path)
    last = moment.report() if any(one.which == _LAST for one in wanted) else first
    ends = {_FIRST: first, _LAST: last}
    return {one: report for one in wanted if (report := ends[one.which]) is not None}


def _no_reports(path: Path) -> UsageError:
    return UsageError(f"{printable(str(path))} has no reports yet", "wait for its first report")


def _built(recording: Recording, places: set[int]) -> dict[int, Report]:
    built: dict[int, Report] = {}
    for place, moment in enumerate(recording.moments()):
        if place in places:
            built[place] = moment.report()
        if len(built) == len(places):
            break
    return built


def _places(recording: Recording, wanted: Sequence[When]) -> dict[When, int]:
    """Which of the recording's reports, counted from 0, each of them is."""
    seen = _Seen()
    for place, moment in enumerate(recording.moments()):
        seen.add(place, moment)
    marks = {mark.name: mark.report for mark in recording.marks}
    return {one: seen.place(one, marks) for one in wanted}


class _Seen:
    """What reports a recording has."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}
        self._times: list[float] = []
        self._peak = 0
        self._most = -1

    def add(self, place: int, moment: Moment) -> None:
        self._numbers[moment.number] = place
        self._times.append(moment.elapsed_s)
        if moment.outstanding_bytes > self._most:
            self._most, self._peak = moment.outstanding_bytes, place

    def place(self, wanted: When, marks: dict[str, int]) -> int:
        """Raises UsageError if there is none."""
        name, which = printable(str(wanted.path)), wanted.which
        if not self._times:
            raise _no_reports(wanted.path)
        known = {_FIRST: 0, _LAST: len(self._times) - 1, _PEAK: self._peak}
        if which in known:
            return known[which]
        if which in marks:
            which = str(marks[which])
        if which.isdecimal():
            found = self._numbers.get(int(which[:18]))
            if found is None:
                numbers = list(self._numbers)
                raise UsageError(
                    f"{name} has no report {which}",
                    f"its reports are {numbers[0]} to {numbers[-1]}",
                )
            return found
        if time := _TIME.fullmatch(which):
            elapsed_s = float(time[1]) * _SECONDS[time[2]]
            for place, at in enumerate(self._times):
                if at >= elapsed_s:
                    return place
            raise UsageError(
                f"{name} ends {self._times[-1]:.1f} s after tracing began, before {which}",
                "choose an earlier time, or @last",
            )
        names = ", ".join(printable(one) for one in list(marks)[:10]) or "none"
        raise UsageError(
            f"{name} has no report {printable(which)!r}; its marks: {names}", f"choose {WHEN}"
        )
