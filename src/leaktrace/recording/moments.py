"""Which report of a recording is meant: the last one, the largest, that at a time or a mark."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import overload

from leaktrace.errors import UsageError
from leaktrace.printable import printable
from leaktrace.recording.gaps import local
from leaktrace.recording.reader import Mark, Moment

_CLOCK = re.compile(r"(\d{1,2}):(\d\d)(?::(\d\d))?", re.ASCII)
_ELAPSED = re.compile(r"(?=.)(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?", re.ASCII)
_WAYS = "write first, last, peak, a report's number, 14:05, 2026-03-01T14:05, 5m, or a mark's name"
_MOST_DIGITS = 9
_EPOCH, _MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
_LARGEST = (1 << 63) - 1


@dataclass(frozen=True)
class Point:
    """What is known of a report before its sites are put together."""

    number: int
    time: datetime
    elapsed_s: float
    outstanding_bytes: int


class Points(Sequence[Point]):
    """The points of a recording, of which there may be a million: 32 bytes for each."""

    def __init__(self, moments: Iterable[Moment] = ()) -> None:
        self._numbers, self._times_us = array("q"), array("q")
        self._elapsed_s, self._outstanding = array("d"), array("q")
        for one in moments:
            self._numbers.append(_in_64_bits(one.number))
            self._times_us.append((one.time - _EPOCH) // _MICROSECOND)
            self._elapsed_s.append(one.elapsed_s)
            self._outstanding.append(_in_64_bits(one.outstanding_bytes))

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, at: int) -> Point: ...
    @overload
    def __getitem__(self, at: slice) -> list[Point]: ...
    def __getitem__(self, at: int | slice) -> Point | list[Point]:
        if isinstance(at, slice):
            return [self[one] for one in range(*at.indices(len(self)))]
        return Point(
            self._numbers[at],
            _EPOCH + self._times_us[at] * _MICROSECOND,
            self._elapsed_s[at],
            self._outstanding[at],
        )


def _in_64_bits(number: int) -> int:
    """leaktrace writes no others, but somebody may have."""
    return max(-_LARGEST, min(number, _LARGEST))


@dataclass(frozen=True)
class Choice:
    """The place of a report in a recording, and what is to be said about it."""

    at: int
    said: str = ""


def choose(word: str, points: Sequence[Point], marks: Sequence[Mark]) -> Choice:
    """The report that a word of --at means: at a time, the last one until then. `points`: all
    reports, at least one. Raises UsageError."""
    if word in ("last", "first"):
        return Choice(len(points) - 1 if word == "last" else 0)
    if word == "peak":
        largest = max(range(len(points)), key=lambda at: points[at].outstanding_bytes)
        return Choice(largest, "the report with the most outstanding bytes")
    marked = [mark for mark in marks if mark.name == word]
    if marked:
        said = f"at the mark {printable(word)}"
        if len(marked) > 1:
            said += f", the last of {len(marked)} with this name"
        return Choice(_of_number(marked[-1].report, points), said)
    if word.isascii() and word.isdecimal():
        return Choice(_of_number(int(word[: _MOST_DIGITS + 1]), points))
    elapsed_s = _elapsed(word)
    if elapsed_s is not None:
        until = [at for at, point in enumerate(points) if point.elapsed_s <= elapsed_s]
    else:
        time = _time(word, points[0])
        until = [at for at, point in enumerate(points) if point.time <= time]
    if not until:
        raise UsageError(
            f"there is no report until {printable(word)}: the first one was made at "
            f"{local(points[0].time)}, {points[0].elapsed_s:.1f} s after the start",
            "give a later time, or --at first",
        )
    return Choice(until[-1])


def choose_range(
    first: str | None, last: str | None, points: Sequence[Point], marks: Sequence[Mark]
) -> range:
    """The places of all reports from one to another, both included. Raises UsageError."""
    begin = 0 if first is None else _begin(first, points, marks)
    end = len(points) - 1 if last is None else choose(last, points, marks).at
    if begin > end:
        raise UsageError(
            f"there is no report from {printable(first or 'first')} to {printable(last or 'last')}",
            "leaktrace show RUN --marks lists the marks; --from must come before --to",
        )
    return range(begin, end + 1)


def _begin(word: str, points: Sequence[Point], marks: Sequence[Mark]) -> int:
    """The first report at or after a time; of marks with the same name, the first one."""
    for mark in marks:
        if mark.name == word:
            return _of_number(mark.report, points)
    elapsed_s = _elapsed(word)
    if elapsed_s is not None:
        return sum(point.elapsed_s < elapsed_s for point in points)
    if _CLOCK.fullmatch(word) or "-" in word:
        try:
            time = _time(word, points[0])
        except UsageError:
            return choose(word, points, marks).at
        return sum(point.time < time for point in points)
    return choose(word, points, marks).at


def _of_number(number: int, points: Sequence[Point]) -> int:
    for at, point in enumerate(points):
        if point.number == number:
            return at
    numbers = f"{points[0].number} to {points[-1].number}"
    raise UsageError(f"there is no report {number} in it", f"it has the reports {numbers}")


def _elapsed(word: str) -> float | None:
    found = _ELAPSED.fullmatch(word)
    if found is None or max(len(one or "") for one in found.groups()) > _MOST_DIGITS:
        return None
    days, hours, minutes, seconds = (float(one or 0) for one in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def _time(word: str, first: Point) -> datetime:
    """A time of the day, local, the first one after the recording began; or a date with it."""
    clock = _CLOCK.fullmatch(word)
    try:
        if clock is None:
            return datetime.fromisoformat(word.replace("Z", "+00:00")).astimezone()
        hour, minute, second = (int(one or 0) for one in clock.groups())
        began = (first.time - timedelta(seconds=min(first.elapsed_s, 1e9))).astimezone()
        time = began.replace(hour=hour, minute=minute, second=second, microsecond=0)
        is_before = time + timedelta(minutes=1) <= began
        return time + timedelta(days=1) if is_before else time
    except (ValueError, OverflowError):
        raise UsageError(
            f"{printable(word)} is no report, no time and no mark of this recording", _WAYS
        ) from None
