"""Of what a site allocated in each slice of time, how much is still there."""

from __future__ import annotations

import numpy as np
import pytest

from leaktrace.analysis.verdicts import cohorts as module
from leaktrace.analysis.verdicts.cohorts import MOST_POINTS, MOST_SLICES, Cohorts, Survivors

S = 1_000_000_000


def report(cohorts: Cohorts, time_s: float, held: dict[int, list[float]], size: int = 10) -> None:
    """A report of these sites, each with blocks that were allocated at these times."""
    ids = sorted(held)
    rows = [row for row, one in enumerate(ids) for _ in held[one]]
    times_s = [time for one in ids for time in held[one]]
    cohorts.add_blocks(
        round(time_s * S),
        np.array(ids, dtype=np.uint64),
        Survivors(
            np.array(rows, dtype=np.intp),
            np.array([round(time * S) for time in times_s], dtype=np.int64),
            np.ones(len(rows)),
            np.full(len(rows), float(size)),
        ),
    )


def test_what_is_left_by_slice() -> None:
    cohorts = Cohorts(0)
    report(cohorts, 8, {1: [0.5, 1.5, 1.6, 7.5]})
    history = cohorts.history(1)
    assert history is not None
    assert history.edges_s.tolist() == list(range(9))
    assert history.counts.tolist() == [1, 2, 0, 0, 0, 0, 0, 1]
    assert history.bytes.tolist() == [10, 20, 0, 0, 0, 0, 0, 10]
    assert history.squares.sum() == 400
    assert cohorts.history(2) is None


def test_freed_blocks_by_age() -> None:
    cohorts = Cohorts(0)
    report(cohorts, 8, {1: [0.5, 7.5]})
    report(cohorts, 16, {1: [7.5, 15.5]})
    history = cohorts.history(1)
    assert history is not None
    # It was allocated in the first second, so that it was 16 s old at most: 2**34 ns.
    assert history.gone.sum() == 1 and history.gone[34] == 1
    # It was seen when the second began, 7 s later: more than 2**32 ns.
    assert history.gone_least.sum() == 1 and history.gone_least[33] == 1
    report(cohorts, 24, {2: [23.0]})
    gone = cohorts.history(1)
    assert gone is not None and gone.gone.sum() == 3 and gone.held_bytes.tolist() == [20, 20, 0]


def test_slices_and_points_stay_few() -> None:
    cohorts, times = Cohorts(0), []
    for number in range(1, 500):
        times.append(number - 0.5)
        report(cohorts, number, {1: times})
        history = cohorts.history(1)
        assert history is not None
        assert len(history.counts) <= MOST_SLICES and len(history.times_s) <= MOST_POINTS
        assert history.counts.sum() == number == history.held_counts[-1]
        assert history.edges_s[-1] == history.times_s[-1] == number
        assert history.gone.sum() == 0
        if number > 64:
            widths, gaps = np.diff(history.edges_s)[:-1], np.diff(history.times_s)[:-1]
            assert widths.max() <= 6 * widths.min()
            assert gaps.max() <= 6 * gaps.min()
    last = cohorts.history(1)
    assert last is not None and len(last.counts) > MOST_SLICES // 4


def test_sites_get_other_ids() -> None:
    cohorts = Cohorts(0)
    report(cohorts, 8, {1: [1.0], 2: [2.0], 9: [3.0]})
    cohorts.rename(lambda one: {2: 1}.get(one, one))
    merged = cohorts.history(1)
    assert merged is not None and merged.counts.sum() == 2 and merged.held_bytes.tolist() == [20]
    assert cohorts.history(2) is None and cohorts.history(9) is not None


def test_too_many_sites(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that hold the most are watched; of one that comes later it is known from when on."""
    monkeypatch.setattr(module, "MOST_SITES", 2)
    cohorts = Cohorts(0)
    report(cohorts, 8, {1: [1.0] * 5, 2: [1.0] * 4, 3: [1.0]})
    assert cohorts.history(3) is None
    report(cohorts, 16, {1: [1.0] * 5, 2: [1.0], 3: [1.0] * 9})
    later = cohorts.history(3)
    assert later is not None and later.watched_s == 8.0
    assert cohorts.history(1) is not None and cohorts.history(2) is None


def test_the_fastest() -> None:
    cohorts = Cohorts(0)
    report(cohorts, 8, {1: [1.0] * 50, 2: [7.0], 3: [1.0]})
    report(cohorts, 16, {1: [1.0] * 50, 2: [7.0], 3: [1.0], 4: [15.0] * 9})
    ids, others = cohorts.fastest(1)
    # 2 by what is left of the middle, 4 by its total; of the others nothing came lately.
    assert (ids.tolist(), others) == ([2, 4], 0)


def test_a_process_as_new_as_its_first_report() -> None:
    """Its watch begins 1 ns before the snapshot."""
    cohorts = Cohorts(8 * S - 1)
    report(cohorts, 8, {1: [8.0]})
    report(cohorts, 9, {1: [8.0, 8.9]})
    history = cohorts.history(1)
    assert history is not None
    assert (np.diff(history.edges_s) > 0).all()
    assert history.counts.sum() == 2


def test_totals_of_too_many_sites(monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest ones are watched, whatever their ids."""
    monkeypatch.setattr(module, "MOST_SITES", 2)
    cohorts = Cohorts(0)
    for number, sizes in enumerate(([5.0, 4.0, 1.0], [5.0, 4.0, 9.0], [5.0, 4.0, 99.0]), start=1):
        ids = np.array([1, 2, 3], dtype=np.uint64)
        cohorts.add_totals(number * 8 * S, ids, np.array(sizes), np.ones(3))
    largest = cohorts.history(3)
    assert largest is not None and largest.held_bytes[-1] == 99 and largest.watched_s == 8.0
    assert cohorts.history(2) is None


def test_when_a_site_allocated_last() -> None:
    cohorts = Cohorts(0)
    for number, count in enumerate((5, 7, 7, 7), start=1):
        report(cohorts, number * 8, {1: [1.0]})
        cohorts.note_allocated(np.array([1], dtype=np.uint64), np.array([count]))
    history = cohorts.history(1)
    assert history is not None and history.allocated_s == 16.0
