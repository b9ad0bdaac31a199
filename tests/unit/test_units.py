"""Figures for people."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leaktrace import units

S = 1_000_000_000


@pytest.mark.parametrize(
    ("size_bytes", "shown"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (12 << 20, "12.0 MiB"),
        (1_048_575, "1.0 MiB"),  # not "1024.0 KiB"
        (-3, "-3 B"),
        (-(512 << 10), "-512.0 KiB"),
        ((1 << 64) - 1, "16.0 EiB"),
        (1 << 75, "32768.0 EiB"),
    ],
)
def test_size(size_bytes: int, shown: str) -> None:
    assert units.size(size_bytes) == shown


@given(st.integers(0, 1 << 64))
def test_size_is_never_wider_than_a_column(size_bytes: int) -> None:
    assert len(units.size(size_bytes)) <= len("1023.9 KiB")


@pytest.mark.parametrize(
    ("size_bytes", "shown"), [(0, "+0 B"), (524_288, "+512.0 KiB"), (-1, "-1 B")]
)
def test_size_change(size_bytes: int, shown: str) -> None:
    assert units.size_change(size_bytes) == shown


@pytest.mark.parametrize(
    ("age_ns", "shown"),
    [
        (-5, "0ms"),
        (999_999, "0ms"),
        (820_000_000, "820ms"),
        (S, "1.0s"),
        (12_399_999_999, "12.3s"),
        (60 * S - 1, "59.9s"),
        (60 * S, "1m00s"),
        (250 * S, "4m10s"),
        (3600 * S, "1h00m"),
        (86_400 * S - 1, "23h59m"),
        (2 * 86_400 * S + 4 * 3600 * S, "2d4h"),
    ],
)
def test_age(age_ns: int, shown: str) -> None:
    assert units.age(age_ns) == shown


@pytest.mark.parametrize(
    ("elapsed_s", "shown"), [(0.0, "0.0 s"), (15.04, "15.0 s"), (61.2, "1m01s"), (7200.0, "2h00m")]
)
def test_elapsed(elapsed_s: float, shown: str) -> None:
    assert units.elapsed(elapsed_s) == shown


@pytest.mark.parametrize(
    ("part", "whole", "shown"),
    [
        (0, 10, "0%"),
        (49, 100, "49%"),
        (1, 1_000, "<1%"),
        (999, 1_000, ">99%"),
        (10, 10, "100%"),
        (0, 0, ""),
        (11, 10, ""),
        (-1, 10, ""),
    ],
)
def test_share(part: int, whole: int, shown: str) -> None:
    assert units.share(part, whole) == shown


def test_counts() -> None:
    assert units.number(51_204) == "51,204"
    assert units.counted(1, "site") == "1 site"
    assert units.counted(0, "site") == "0 sites"
    assert units.counted(51_204, "allocation") == "51,204 allocations"
