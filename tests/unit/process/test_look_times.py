"""When the mappings of a process are read again."""

from __future__ import annotations

import pytest

from leaktrace.process.look_times import LookTimes


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which tests set."""
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def test_looks_after_an_exec_come_ever_later(clock: list[float]) -> None:
    times = LookTimes()
    assert not times
    assert times.next_s() is None
    times.after_exec()
    looks = []
    while times:
        due_s = times.next_s()
        assert due_s is not None
        clock[0] = due_s - 0.0001
        assert not times.take_due()
        clock[0] = due_s
        assert times.take_due()
        looks.append(due_s - 100)
    gaps = [after - before for before, after in zip([0.0, *looks], looks, strict=False)]
    assert gaps == sorted(gaps)
    assert 0.5 < looks[-1] < 5


def test_looks_that_were_missed_are_one(clock: list[float]) -> None:
    times = LookTimes()
    times.after_exec()
    clock[0] += 60
    assert times.take_due()
    assert not times


def test_a_load_asks_for_a_look_only_if_none_is_due(clock: list[float]) -> None:
    times = LookTimes()
    times.after_exec()
    first = times.next_s()
    times.after_load()
    assert times.next_s() == first
    clock[0] += 60
    times.take_due()
    times.after_load()
    due_s = times.next_s()
    assert due_s is not None
    assert due_s > clock[0]


def test_at_once_comes_before_the_others(clock: list[float]) -> None:
    times = LookTimes()
    times.after_exec()
    times.at_once()
    assert times.next_s() == clock[0]
    assert times.take_due()
    assert times
