"""Which report is meant by --at, --from and --to."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from leaktrace.errors import UsageError
from leaktrace.recording.moments import Point, choose, choose_range
from leaktrace.recording.reader import Mark

START = datetime(2026, 3, 1, 23, 50, 0, tzinfo=UTC)


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times of the day are local."""
    import time

    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


def point(number: int, minutes: float, held: int) -> Point:
    return Point(number, START + timedelta(minutes=minutes), minutes * 60, held)


# Recorded from 23:50, over midnight, a report each five minutes; report 3 is missing.
POINTS = [point(1, 5, 10), point(2, 10, 70), point(4, 20, 70), point(5, 25, 60)]
MARKS = [Mark("login", START, 0, 2), Mark("7", START, 0, 4), Mark("login", START, 0, 5)]


@pytest.mark.parametrize(
    ("word", "number"),
    [
        ("last", 5),
        ("first", 1),
        ("peak", 2),
        ("4", 4),
        ("login", 5),
        ("7", 4),
        ("5m", 1),
        ("9m59s", 1),
        ("600s", 2),
        ("19m", 2),
        ("1h30m", 5),
        ("23:55", 1),
        ("23:59:59", 1),
        ("00:00", 2),
        ("00:12", 4),
        ("2026-03-02T00:10:00", 4),
        ("2026-03-02 00:10:00+00:00", 4),
        ("2026-03-02T01:10:00+01:00", 4),
        ("2026-03-02T00:09:59Z", 2),
    ],
)
def test_at(word: str, number: int) -> None:
    assert POINTS[choose(word, POINTS, MARKS).at].number == number


@pytest.mark.parametrize(
    "word", ["3", "0", "99999999999999", "4m", "23:51", "25:00", "logout", "", "-1", "\x1b[2J"]
)
def test_at_nothing(word: str) -> None:
    with pytest.raises(UsageError) as caught:
        choose(word, POINTS, MARKS)
    assert caught.value.message.isprintable()
    assert caught.value.hint


@pytest.mark.parametrize(
    ("first", "last", "numbers"),
    [
        (None, "2", [1, 2]),
        ("2", None, [2, 4, 5]),
        ("6m", "20m", [2, 4]),
        ("login", "login", [2, 4, 5]),
        ("first", "last", [1, 2, 4, 5]),
        ("00:00", "00:10", [2, 4]),
        ("peak", "peak", [2]),
    ],
)
def test_range(first: str | None, last: str | None, numbers: list[int]) -> None:
    found = choose_range(first, last, POINTS, MARKS)
    assert [POINTS[at].number for at in found] == numbers


@pytest.mark.parametrize(("first", "last"), [("5", "2"), ("11m", "12m"), ("2h", None)])
def test_range_of_nothing(first: str, last: str | None) -> None:
    with pytest.raises(UsageError):
        choose_range(first, last, POINTS, MARKS)
