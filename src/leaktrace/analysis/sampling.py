"""Estimates from sampled allocations: their weights and standard errors.

An allocation that was recorded with probability p represents 1/p allocations. The sum of these
weights is an unbiased estimate of what was allocated (Horvitz and Thompson, 1952), with variance
sum((1 - p) / p**2 * value**2).

By calls (-s N), p = 1/N for every allocation. By bytes (--sample-bytes N), every byte is drawn with
the same small probability: the gaps between draws are exponentially distributed with mean N, and
p = 1 - exp(-size / N). Large allocations are recorded almost always, small ones rarely.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leaktrace.abi.process import COUNT_UNIT, GAP_COUNT, WEIGHT_COUNT, WEIGHT_STEP, WEIGHT_UNIT
from leaktrace.options import Filters

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Sampling:
    """How allocations were chosen. With a rate of 1 and no mean, all of them are recorded."""

    rate: int = 1
    mean_bytes: int | None = None
    since_ns: int = 0  # sampling by calls started at that time; older allocations were all recorded

    @classmethod
    def from_filters(cls, filters: Filters) -> Sampling:
        return cls(filters.sample_rate, filters.sample_bytes)

    @property
    def is_on(self) -> bool:
        return self.rate > 1 or self.mean_bytes is not None

    @property
    def count_unit(self) -> int:
        """The unit of site counters: sampled by bytes, they add up weights * COUNT_UNIT."""
        return 1 if self.mean_bytes is None else COUNT_UNIT

    def scale_sites(self, sites: NDArray[np.void]) -> NDArray[np.void]:
        """Site counters (abi.SITE), scaled up to estimates."""
        if not self.is_on:
            return sites
        scaled = sites.copy()
        if self.mean_bytes is not None:
            for name in ("allocated_count", "freed_count"):
                counts = sites[name].astype(np.int64)  # freed may be negative
                scaled[name] = np.rint(counts / COUNT_UNIT).astype(np.int64).astype(np.uint64)
            return scaled
        if self.since_ns:
            return sites  # the BPF program has weighed what came after
        factor = np.where(sites["is_region"] != 0, 1, self.rate).astype(np.uint64)
        for name in ("allocated_bytes", "allocated_count", "freed_bytes", "freed_count"):
            scaled[name] = sites[name] * factor
        return scaled

    def probabilities(self, records: NDArray[np.void]) -> Floats:
        """The probability of each allocation (abi.ALLOCATION) to be recorded."""
        if self.mean_bytes is not None:
            return -np.expm1(-records["size"].astype(np.float64) / self.mean_bytes)
        return np.where(records["time_ns"] >= self.since_ns, 1 / self.rate, 1.0)

    def weights_and_variances(self, records: NDArray[np.void]) -> tuple[Floats, Floats]:
        """How many allocations each record represents, and the variance of that number."""
        probabilities = self.probabilities(records)
        # By bytes, a size of 0 is never drawn, so a record of that size has no weight to compute.
        drawn = probabilities > 0
        weights = np.divide(1.0, probabilities, out=np.ones_like(probabilities), where=drawn)
        return weights, weights * (weights - 1)


def gap_table(mean_bytes: int) -> NDArray[np.uint64]:
    """The quantiles of the gaps between draws in bytes, GAP_COUNT + 1 of them.

    The last one would be infinite. It is set so that linear interpolation between the quantiles has
    exactly the mean of the distribution.
    """
    quantiles = np.arange(GAP_COUNT, dtype=np.float64) / GAP_COUNT
    gaps = -mean_bytes * np.log1p(-quantiles)
    means_between = (gaps[:-1] + gaps[1:]) / 2
    last_mean = mean_bytes * GAP_COUNT - means_between.sum()
    last = max(2 * last_mean - gaps[-1], gaps[-1])
    table: NDArray[np.uint64] = np.rint(np.append(gaps, last)).astype(np.uint64)
    return table


def weight_table() -> NDArray[np.uint64]:
    """x / (1 - exp(-x)) at x = i / WEIGHT_STEP, times WEIGHT_UNIT, WEIGHT_COUNT + 1 of them."""
    x = np.arange(1, WEIGHT_COUNT + 1, dtype=np.float64) / WEIGHT_STEP
    weights = np.append(1.0, x / -np.expm1(-x))
    table: NDArray[np.uint64] = np.rint(weights * WEIGHT_UNIT).astype(np.uint64)
    return table
