"""Lifetimes in sentences and as JSON."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sample_reports import PARSE_SITE

from leaktrace import units
from leaktrace.report.lifetimes import (
    freed_at_in_words,
    lifetimes_as_json,
    lifetimes_in_words,
)
from leaktrace.site import Frame, Releaser, Stack, StackEnd, Total
from leaktrace.verdict import Lifetimes


def lived(**counts: int) -> Lifetimes:
    by_power = {int(name[1:]): count for name, count in counts.items()}
    return Lifetimes(tuple(by_power.get(power, 0) for power in range(max(by_power) + 1)))


@pytest.mark.parametrize(
    ("lifetimes", "freed_count", "words"),
    [
        (None, 7, ""),
        (Lifetimes(), 0, "none freed"),
        (lived(p24=7_400, p40=12), 7_412, "7,412 freed, 99% within 17 ms"),
        (lived(p10=2, p31=1), 3, "3 freed, all within 2.2 s"),
        (lived(p10=3), 2, "3 freed, all within 1.1 µs"),
    ],
    ids=str,
)
def test_in_words(lifetimes: Lifetimes | None, freed_count: int, words: str) -> None:
    site = replace(PARSE_SITE, lifetimes=lifetimes, freed_count=freed_count)
    assert lifetimes_in_words(site) == words


def test_of_a_sample() -> None:
    site = replace(PARSE_SITE, lifetimes=lived(p20=120), freed_count=1_200, error=Total(1_000, 100))
    assert lifetimes_in_words(site) == "about 1,200 freed, 99% of 120 sampled within 1.1 ms"


@pytest.mark.parametrize(
    ("power", "words"),
    [
        (8, "256 ns"),
        (10, "1.1 µs"),
        (19, "525 µs"),
        (20, "1.1 ms"),
        (29, "537 ms"),
        (30, "1.1 s"),
        (23, "8.4 ms"),
        (35, "35 s"),
        (36, "1m09s"),
        (53, "104d6h"),
    ],
)
def test_durations_are_rounded_up(power: int, words: str) -> None:
    assert units.duration(1 << power) == words


def test_json_has_no_empty_parts() -> None:
    assert lifetimes_as_json(lived(p8=1, p20=2)) == {
        "freed_count": 3,
        "upper_bounds_ns": [256, 1 << 20],
        "counts": [1, 2],
    }
    assert lifetimes_as_json(Lifetimes()) == {
        "freed_count": 0,
        "upper_bounds_ns": [],
        "counts": [],
    }
    assert lifetimes_as_json(None) is None


def test_who_frees() -> None:
    site = replace(
        PARSE_SITE,
        freed_at=(
            Releaser(PARSE_SITE.stack, 12_004, 34_122),
            Releaser(Stack((Frame(0x1234, None, module="/usr/lib/libz.so.1"),)), 3, 34_122),
            Releaser(Stack((), StackEnd.LOST), 1, 34_122),
        ),
    )
    assert list(freed_at_in_words(site)) == [
        "freed at copy_token http/token.h:12: 12,004 of 34,122",
        "freed at 0x1234 [libz.so.1]: 3 of 34,122",
        "freed at a stack that is not known: 1 of 34,122",
    ]
