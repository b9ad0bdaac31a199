"""Weights, gaps and standard errors of sampled allocations, compared with their expected
averages."""

from __future__ import annotations

import math

import numpy as np
import pytest

from leaktrace.abi import process as abi
from leaktrace.abi.process import COUNT_UNIT, GAP_COUNT, WEIGHT_COUNT, WEIGHT_UNIT
from leaktrace.analysis.sampling import Sampling, gap_table, weight_table
from leaktrace.analysis.sites import combine_counters, group_by_site
from leaktrace.analysis.snapshot import Snapshot

SIZES = np.array([1, 16, 100, 4096, 100_000, 10_000_000], dtype=np.uint64)


def snapshot(sizes: np.ndarray, regions: int = 0) -> Snapshot:
    records = np.zeros(len(sizes), dtype=abi.ALLOCATION)
    records["size"] = sizes
    records["stack_id"] = 7
    return Snapshot(
        time_ns=10,
        generation=0,
        addresses=np.arange(len(sizes), dtype=np.uint64),
        records=records,
        site_ids=np.empty(0, dtype=np.uint64),
        sites=np.empty(0, dtype=abi.SITE),
        losses=np.zeros(abi.LOSS_COUNTERS, dtype=np.uint64),
        region_count=regions,
    )


@pytest.mark.parametrize("mean_bytes", [100, 4096, 524_288])
def test_gaps_have_the_exponential_distribution(mean_bytes: int) -> None:
    gaps = gap_table(mean_bytes).astype(np.float64)
    assert len(gaps) == GAP_COUNT + 1
    assert np.all(np.diff(gaps) >= 0)
    mean = ((gaps[:-1] + gaps[1:]) / 2).mean()
    assert mean == pytest.approx(mean_bytes, rel=1e-3)
    for quantile in (0.1, 0.5, 0.9, 0.99):
        expected = -mean_bytes * math.log1p(-quantile)
        assert gaps[int(quantile * GAP_COUNT)] == pytest.approx(expected, rel=0.01, abs=1)


def test_weight_table_is_the_function_it_claims_to_be() -> None:
    table = weight_table()
    assert len(table) == WEIGHT_COUNT + 1
    for index in (1, 10, 256, 2560, WEIGHT_COUNT):
        x = index / 256
        assert table[index] / WEIGHT_UNIT == pytest.approx(x / (1 - math.exp(-x)), rel=1e-4)


@pytest.mark.parametrize("sampling", [Sampling(rate=7), Sampling(mean_bytes=4096)])
def test_estimates_are_unbiased(sampling: Sampling) -> None:
    """Draw with the stated probabilities many times: the mean of the estimates is the truth, and
    their spread is the standard error that each of them states."""
    random = np.random.default_rng(1)
    sizes = np.repeat(SIZES[:5], 200)
    truth = float(sizes.sum())
    estimates, errors = [], []
    for _ in range(2000):
        drawn = random.random(len(sizes)) < sampling.probabilities(snapshot(sizes).records)
        table = group_by_site(snapshot(sizes[drawn]), 0, sampling)
        error = table.error(slice(None))
        assert error is not None
        estimates.append(table.total().bytes)
        errors.append(error.bytes)
    spread = float(np.std(estimates))
    assert abs(np.mean(estimates) - truth) < 4 * spread / math.sqrt(len(estimates))
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(spread, rel=0.1)


def test_regions_are_never_scaled() -> None:
    table = group_by_site(snapshot(np.array([8192, 8192]), regions=2), 0, Sampling(rate=10))
    assert (table.total().bytes, table.total().count) == (16384, 2)
    error = table.error(slice(None))
    assert error is not None
    assert error.bytes == 0


def test_nothing_is_scaled_without_sampling() -> None:
    table = group_by_site(snapshot(SIZES), 0, Sampling())
    assert table.total().bytes == int(SIZES.sum())
    assert table.error(slice(None)) is None


def test_counters_sampled_by_bytes_are_in_units() -> None:
    one = snapshot(np.empty(0, dtype=np.uint64))
    sites = np.zeros(1, dtype=abi.SITE)
    sites["allocated_bytes"], sites["allocated_count"] = 5000, 3 * COUNT_UNIT
    sites["freed_bytes"], sites["freed_count"] = 1000, COUNT_UNIT
    shot = Snapshot(**{**one.__dict__, "site_ids": np.array([7], dtype=np.uint64), "sites": sites})
    assert combine_counters(shot, Sampling(mean_bytes=100)).total().count == 2
    assert combine_counters(shot, Sampling(mean_bytes=100)).total().bytes == 4000
