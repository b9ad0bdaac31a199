"""Rates of a Go program's refills, from looks made by hand."""

from __future__ import annotations

import pytest

from leaktrace.analysis.go_refills import RefillHistory
from leaktrace.go_report import GoLine, RefillKey, RefillLook, SeenRefills


def look(elapsed_s: float, sites: dict[RefillKey, SeenRefills]) -> RefillLook:
    return RefillLook(elapsed_s, sites, 0, 0, 0, 0, 0)


def named(stack: tuple[int, ...]) -> tuple[GoLine, ...]:
    return tuple(GoLine(f"f{address}", "", 0) for address in stack)


SMALL, MEDIUM = RefillKey((1, 2), 48, is_complete=True), RefillKey((1, 2), 96, is_complete=True)
LARGE = RefillKey((3,), 0, is_complete=True)


def test_sizes_of_one_stack_are_one_site() -> None:
    history = RefillHistory(10, named)
    assert history.section() is None
    sizes = {SMALL: SeenRefills(1, 170, 8160), MEDIUM: SeenRefills(2, 170, 16_320)}
    history.add(look(2.0, {**sizes, LARGE: SeenRefills(1, 1, 40_960)}))
    section = history.section()
    assert section is not None
    large, mixed = section.sites
    assert (large.object_bytes, large.now.allocated_bytes) == (0, 40_960)
    assert mixed.object_bytes is None
    assert mixed.now == SeenRefills(3, 340, 24_480)
    assert mixed.bytes_per_s == 12_240
    assert mixed.recent_bytes_per_s is None
    assert [line.function for line in mixed.frames] == ["f1", "f2"]
    assert section.allocated_bytes == 65_440
    assert section.bytes_per_s == 32_720


def test_recent_rates_are_those_since_the_last_look() -> None:
    history = RefillHistory(1, named)
    history.add(look(2.0, {SMALL: SeenRefills(1, 170, 8160)}))
    history.add(
        look(6.0, {SMALL: SeenRefills(1, 170, 8160), LARGE: SeenRefills(2, 2, 80_000)}),
    )
    section = history.section()
    assert section is not None
    (site,) = section.sites
    assert site.recent_bytes_per_s == 20_000
    assert site.bytes_per_s == pytest.approx(80_000 / 6)
    assert section.site_count == 2


def test_a_look_at_once_has_no_rate() -> None:
    history = RefillHistory(1, named)
    history.add(look(0.0, {SMALL: SeenRefills(1, 170, 8160)}))
    section = history.section()
    assert section is not None
    assert section.bytes_per_s == 0
    assert section.sites[0].now.allocated_bytes == 8160
