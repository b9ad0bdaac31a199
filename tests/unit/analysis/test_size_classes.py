"""The sizes of blocks, counted from records: they add up to what sites hold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leaktrace.abi import process as abi
from leaktrace.analysis.sampling import Sampling
from leaktrace.analysis.sites import group_by_site
from leaktrace.analysis.snapshot import Snapshot

NOW_NS = 1_000_000
blocks = st.lists(
    st.tuples(
        st.integers(1, 4),  # its stack
        st.one_of(st.integers(0, 70), st.integers(0, 1 << 40)),
        st.integers(0, NOW_NS),  # its age
    ),
    max_size=60,
)


def snapshot(held: list[tuple[int, int, int]]) -> Snapshot:
    records = np.zeros(len(held), dtype=abi.ALLOCATION)
    for row, (stack, size, age_ns) in enumerate(held):
        records[row] = (size, NOW_NS - age_ns, stack)
    return Snapshot(
        time_ns=NOW_NS,
        generation=0,
        addresses=np.arange(len(held), dtype=np.uint64),
        records=records,
        site_ids=np.empty(0, dtype=np.uint64),
        sites=np.empty(0, dtype=abi.SITE),
        losses=np.zeros(abi.LOSS_COUNTERS, dtype=np.uint64),
    )


@given(blocks, st.sampled_from([0, NOW_NS // 2]))
def test_each_block_is_in_the_class_of_its_size(
    held: list[tuple[int, int, int]], older_ns: int
) -> None:
    table = group_by_site(snapshot(held), older_ns, Sampling(), with_sizes=True)
    for row, stack in enumerate(table.stack_ids.tolist()):
        counts, held_bytes = table.sizes_of(row)
        sizes = [size for of, size, age_ns in held if of == stack and age_ns >= older_ns]
        assert len(counts) == len(held_bytes)
        assert sum(held_bytes) == sum(sizes) == table.bytes[row]
        for bits, (count, all_bytes) in enumerate(zip(counts, held_bytes, strict=True)):
            low, high = 2**bits // 2, 2**bits
            of_class = [size for size in sizes if low <= size < high]
            assert (count, all_bytes) == (len(of_class), sum(of_class))


@given(blocks, st.sampled_from([Sampling(rate=7), Sampling(mean_bytes=4096)]))
def test_estimates_add_up_too(held: list[tuple[int, int, int]], sampling: Sampling) -> None:
    """Weighted blocks are no whole numbers; rounded one by one, they would miss the sum."""
    table = group_by_site(snapshot(held), 0, sampling, with_sizes=True)
    for row, stack in enumerate(table.stack_ids.tolist()):
        counts, held_bytes = table.sizes_of(row)
        assert sum(counts) == table.counts[row]
        assert sum(held_bytes) == table.bytes[row]
        assert min((*counts, *held_bytes)) >= 0
        classes = {size.bit_length() for of, size, _ in held if of == stack}
        assert {bits for bits, count in enumerate(counts) if count} <= classes
        assert {bits for bits, one in enumerate(held_bytes) if one} <= classes


def test_without_being_asked_nothing_is_counted() -> None:
    table = group_by_site(snapshot([(1, 100, 0)]), 0, Sampling())
    assert table.sizes_of(0) == ((), ())


@pytest.mark.parametrize(("count", "is_counted"), [(50_000, True), (50_001, False)])
def test_only_so_many_sites_have_sizes(count: int, is_counted: bool) -> None:
    table = group_by_site(
        snapshot([(stack, 8, 0) for stack in range(1, count + 1)]), 0, Sampling(), with_sizes=True
    )
    assert (table.sizes is not None) is is_counted
