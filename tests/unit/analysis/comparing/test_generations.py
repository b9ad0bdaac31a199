"""What was allocated between two moments and is still there: bounds, against simulated blocks."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_reports import BUSY, PARSE_SITE

from leaktrace.analysis.comparing.generations import Generations, generations
from leaktrace.errors import UsageError
from leaktrace.model import Report
from leaktrace.site import Site, Total

SIZE = 100
S = 1_000_000_000

# Blocks of two sites: when each is allocated and freed, in tenths of a second.
blocks = st.lists(
    st.tuples(st.integers(0, 1), st.integers(1, 60), st.one_of(st.none(), st.integers(1, 40))),
    max_size=30,
)
moments = st.lists(st.integers(0, 70), min_size=3, max_size=3).map(sorted)


def report_at(moment: int, history: list[tuple[int, int, int | None]], ages: bool) -> Report:
    """What a report says at that moment. A site without blocks is not listed."""
    sites: list[Site] = []
    for number in (0, 1):
        mine = [(at, None if life is None else at + life) for n, at, life in history if n == number]
        made = [at for at, _ in mine if at <= moment]
        gone = [end for _, end in mine if end is not None and end <= moment]
        held = [at for at, end in mine if at <= moment and (end is None or end > moment)]
        if held:
            sites.append(
                replace(
                    PARSE_SITE,
                    id=f"{number:016x}",
                    bytes=SIZE * len(held),
                    count=len(held),
                    oldest_ns=(moment - min(held)) * S // 10 if ages else None,
                    newest_ns=(moment - max(held)) * S // 10 if ages else None,
                    allocated_bytes=SIZE * len(made),
                    allocated_count=len(made),
                    freed_bytes=SIZE * len(gone),
                    freed_count=len(gone),
                )
            )
    return replace(
        BUSY,
        elapsed_s=moment / 10,
        sites=tuple(sites),
        site_count=len(sites),
        outstanding=Total(sum(s.bytes for s in sites), sum(s.count for s in sites)),
        younger=Total(),
    )


def over(
    history: list[tuple[int, int, int | None]], at: list[int], ages: bool = False
) -> Generations:
    """What is found from the reports at three moments."""
    begin, end, now = (report_at(moment, history, ages) for moment in at)
    return generations(begin, end, now)


@given(blocks, moments, st.booleans())
def test_the_truth_is_within_the_bounds(
    history: list[tuple[int, int, int | None]], at: list[int], ages: bool
) -> None:
    begin, end, now = at
    found = over(history, at, ages)
    rows = {row.site.id: row for row in found.sites}
    for number in (0, 1):
        truth = sum(
            n == number and begin < made <= end and (life is None or made + life > now)
            for n, made, life in history
        )
        row = rows.get(f"{number:016x}")
        least, most = (0, 0) if row is None else (row.at_least.count, row.at_most.count)
        assert least <= truth <= most
        if row is not None:
            assert row.at_least.bytes == SIZE * least
            assert row.at_most.bytes == SIZE * most


def test_what_nothing_frees_is_known_exactly() -> None:
    history: list[tuple[int, int, int | None]] = [(0, at, None) for at in range(1, 60)]
    found = over(history, [10, 30, 50])
    (row,) = found.sites
    assert row.is_exact
    assert row.at_least == Total(20 * SIZE, 20) == found.at_least == row.allocated


def test_ages_tell_that_all_is_from_then() -> None:
    """Everything of before and after was freed, and something of then, too."""
    history: list[tuple[int, int, int | None]] = [(0, 5, 40), (0, 15, None), (0, 16, 3), (0, 35, 2)]
    with_ages, without = (over(history, [10, 30, 50], ages) for ages in (True, False))
    assert with_ages.sites[0].is_exact
    assert with_ages.at_least == Total(SIZE, 1)
    assert not without.sites[0].is_exact


def test_sites_of_one_id_are_told_apart() -> None:
    """Two of the kernel differ by their cache only."""
    history: list[tuple[int, int, int | None]] = [(0, at, None) for at in range(1, 60)]
    reports = []
    for moment in (10, 30, 50):
        report = report_at(moment, history, False)
        (site,) = report.sites
        both = (replace(site, cache="dentry"), replace(site, cache="inode"))
        reports.append(replace(report, sites=both, site_count=2))
    begin, end, now = reports
    found = generations(begin, end, now)
    assert [row.at_least.count for row in found.sites] == [20, 20]


def test_the_order_matters() -> None:
    early, late = (report_at(moment, [], False) for moment in (1, 2))
    with pytest.raises(UsageError, match="not in order"):
        generations(late, early, late)
