"""What sites hold, counted by site from the records."""

from __future__ import annotations

import numpy as np
import pytest

from leaktrace.abi import process as abi
from leaktrace.analysis.snapshot import Snapshot


@pytest.mark.parametrize("others", [0, 200], ids=["few sites", "many sites"])
def test_what_sites_hold(others: int) -> None:
    records = np.zeros(7 + others, dtype=abi.ALLOCATION)
    records["stack_id"] = [5, 5, 9, 5, 9, *range(100, 100 + others), 5, 9]  # the last two: regions
    records["size"] = [1, 2, 4, 8, 16, *[1] * others, 32, 64]
    snapshot = Snapshot(
        time_ns=0,
        generation=0,
        addresses=np.arange(len(records), dtype=np.uint64),
        records=records,
        site_ids=np.zeros(0, dtype=np.uint64),
        sites=np.zeros(0, dtype=abi.SITE),
        losses=np.zeros(abi.LOSS_COUNTERS, dtype=np.uint64),
        region_count=2,
    )
    asked = np.array([9, 7, 5, *range(100, 100 + others)], dtype=np.uint64)
    sizes, counts = snapshot.held_by(asked)
    assert sizes[:3].tolist() == [20, 0, 11]
    assert counts[:3].tolist() == [2, 0, 3]
    assert counts[3:].tolist() == [1] * others


def test_nothing_is_held() -> None:
    nothing = Snapshot(
        time_ns=0,
        generation=0,
        addresses=np.zeros(0, dtype=np.uint64),
        records=np.zeros(0, dtype=abi.ALLOCATION),
        site_ids=np.zeros(0, dtype=np.uint64),
        sites=np.zeros(0, dtype=abi.SITE),
        losses=np.zeros(abi.LOSS_COUNTERS, dtype=np.uint64),
    )
    sizes, counts = nothing.held_by(np.arange(100, dtype=np.uint64))
    assert not sizes.any()
    assert not counts.any()
