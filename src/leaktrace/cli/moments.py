"""RUN@WHEN: a report of a recording, as words of the command line.

run.rec            the last report
run.rec@first      the first one; WHEN is what `leaktrace show --at` takes
run.rec@deploy     the one that was made for this mark
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from leaktrace.errors import UsageError
from leaktrace.model import Report
from leaktrace.printable import printable
from leaktrace.recording.moments import Points, choose
from leaktrace.recording.reader import Moment, Recording, read_recording

_FIRST, _LAST = "first", "last"
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
    found: dict[When, Report] = {}
    problems: list[str] = []
    for path in dict.fromkeys(one.path for one in wanted):
        recording = read_recording(path)
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
    """The first and the last report, as far as they are wanted."""
    which = {one.which for one in wanted}
    ends: dict[str, Report] = {}
    moment: Moment | None = None
    for moment in recording.moments():
        if _FIRST in which and _FIRST not in ends:
            ends[_FIRST] = moment.report()
    if moment is None:
        raise _no_reports(recording)
    if _LAST in which:
        ends[_LAST] = moment.report()
    return {one: ends[one.which] for one in wanted}


def _places(recording: Recording, wanted: Sequence[When]) -> dict[When, int]:
    """Which of the recording's reports, counted from 0, each of them is."""
    points = Points(recording.moments())
    if not points:
        raise _no_reports(recording)
    places = {}
    for one in wanted:
        try:
            places[one] = choose(one.which, points, recording.marks).at
        except UsageError as error:
            raise UsageError(f"{one.name}: {error.message}", f"WHEN is one of {WHEN}") from None
    return places


def _no_reports(recording: Recording) -> UsageError:
    why = "; ".join(recording.problems)
    return UsageError(
        f"{printable(str(recording.path))} has no report" + (f": {why}" if why else ""),
        "record for longer than one INTERVAL",
    )


def _built(recording: Recording, places: set[int]) -> dict[int, Report]:
    built: dict[int, Report] = {}
    for place, moment in enumerate(recording.moments()):
        if place in places:
            built[place] = moment.report()
        if len(built) == len(places):
            break
    return built
