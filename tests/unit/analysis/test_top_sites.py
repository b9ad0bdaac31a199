"""The part of a report that is shown, of one that is recorded with more sites."""

from __future__ import annotations

from dataclasses import replace

from hand_made_snapshots import Held, build, builder, snapshot
from rendered_samples import REPORTS, rendered

from leaktrace.analysis.top_sites import with_top
from leaktrace.options import ReportOptions

HELD = [Held(1, 100), Held(2, 4096, address=0x20), Held(3, 7, address=0x30), Held(3, 8, age_ms=1)]


def test_what_is_shown_is_the_same_with_a_recording() -> None:
    asked = ReportOptions(top=1)
    plain = build(builder(asked), snapshot(HELD))
    recorded = build(builder(replace(asked, recorded=100)), snapshot(HELD))
    assert [site.bytes for site in recorded.sites] == [4096, 100, 7]
    shown = with_top(recorded, 1)
    sites = tuple(replace(site, sizes=()) for site in shown.sites)
    same_time = replace(shown, time=plain.time, elapsed_s=plain.elapsed_s, sites=sites)
    assert rendered("json", same_time) == rendered("json", plain)


def test_sizes_are_counted_for_recordings_only() -> None:
    held = [Held(1, size, address=size) for size in (0, 1, 2, 3, 4, 1 << 40)]
    (site,) = build(builder(ReportOptions(recorded=9)), snapshot(held)).sites
    assert site.sizes[:4] == (1, 1, 2, 1)
    assert (len(site.sizes), site.sizes[41], sum(site.sizes)) == (42, 1, site.count)
    (site,) = build(builder(), snapshot(held)).sites
    assert site.sizes == ()


def test_regions_that_are_not_shown_are_added_up() -> None:
    """The text says of the other sites what they reserve."""
    report = REPORTS["regions"]
    apart = [site.regions for site in report.sites[1:] if site.regions is not None]
    assert apart
    others = with_top(report, 1).other_regions
    before = report.other_regions
    assert others is not None
    assert others.reserved == sum(one.reserved for one in apart) + (
        before.reserved if before else 0
    )
