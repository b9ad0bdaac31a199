"""Which pages of the sites are watched (--idle), and which blocks are on them.

A page is known by a key: its address, and the slot of its process above that (SLOT_SHIFT).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from leaktrace.analysis.block_classes import SLOT_SHIFT
from leaktrace.analysis.block_use import BLOCK_USE
from leaktrace.analysis.snapshot import Snapshot

MOST_SITES = 32  # the largest ones
PAGES_PER_SITE = 128

_AT_ONCE = 1 << 20  # pages
_MOST_PAGES = 1 << 23  # of one site: of a larger one, one page in two, four… may be chosen


def pages_to_watch(snapshot: Snapshot, page_bytes: int) -> NDArray[np.uint64]:
    """The keys, in order, of some pages of the largest sites. They are chosen at random, but by
    their address, so that most of them are the same the next time."""
    records = snapshot.records[: len(snapshot.records) - snapshot.region_count]
    if not len(records):
        return np.empty(0, dtype=np.uint64)
    _, rows = np.unique(records["stack_id"], return_inverse=True)
    held = np.bincount(rows, weights=records["size"].astype(np.float64))
    chosen = [
        _lowest(snapshot, np.nonzero(rows == site)[0], page_bytes)
        for site in np.argsort(-held, kind="stable")[:MOST_SITES].tolist()
    ]
    return np.unique(np.concatenate(chosen))


def use_of_blocks(
    snapshot: Snapshot,
    keys: NDArray[np.uint64],
    is_idle: NDArray[np.bool_],
    time_ns: int,
    page_bytes: int,
) -> NDArray[np.void]:
    """BLOCK_USE of each record, from the pages that are known: `keys`, in order. `time_ns`: when
    they were looked at. Later blocks are not judged."""
    use = np.zeros(len(snapshot.records), dtype=BLOCK_USE)
    rows = np.arange(len(snapshot.records) - snapshot.region_count)
    rows = rows[snapshot.records["time_ns"][rows] <= np.uint64(time_ns)]
    first, last = _page_range(snapshot, rows, page_bytes)
    begin, end = np.searchsorted(keys, first), np.searchsorted(keys, last, side="right")
    is_on = end > begin
    rows, begin, counts = rows[is_on], begin[is_on], (end - begin)[is_on]
    blocks, pages = _expanded(counts)
    pages += begin[blocks]
    rows = rows[blocks]
    starts = _keys_of(snapshot, rows)
    ends = starts + snapshot.records["size"][rows]
    page_starts = keys[pages]
    inside = np.minimum(ends, page_starts + np.uint64(page_bytes)) - np.maximum(starts, page_starts)
    # How many blocks of the same stack share a page.
    _, stacks = np.unique(snapshot.records["stack_id"][rows], return_inverse=True)
    _, places, sharers = np.unique(
        stacks.astype(np.int64) * max(len(keys), 1) + pages, return_inverse=True, return_counts=True
    )
    share = 1.0 / sharers[places]
    for name, weights in (("bytes", inside.astype(np.float64)), ("pages", share)):
        for kind, chosen in (("looked", slice(None)), ("idle", is_idle[pages])):
            sums = np.bincount(rows[chosen], weights[chosen], minlength=len(use))
            use[f"{kind}_{name}"] = sums
    return use


def _lowest(snapshot: Snapshot, rows: NDArray[np.intp], page_bytes: int) -> NDArray[np.uint64]:
    """Some of the pages that these records are on: those with the lowest hashes."""
    kept = np.empty(0, dtype=np.uint64)
    for pages in _pages_of(snapshot, rows, page_bytes):
        both = np.unique(np.concatenate([kept, pages]))
        kept = both[np.argsort(_hashed(both), kind="stable")[:PAGES_PER_SITE]]
    return kept


def _pages_of(
    snapshot: Snapshot, rows: NDArray[np.intp], page_bytes: int
) -> Iterator[NDArray[np.uint64]]:
    """The keys of the pages of these records, some at a time."""
    first, last = _page_range(snapshot, rows, page_bytes)
    counts = ((last - first) // np.uint64(page_bytes)).astype(np.int64) + 1
    stride = 1
    while counts.sum() // stride > _MOST_PAGES:
        stride *= 2
    step = np.uint64(page_bytes * stride)
    if stride > 1:
        first = (first + step - np.uint64(1)) // step * step
        counts = np.where(
            last >= first, (last.astype(np.int64) - first.astype(np.int64)) // int(step) + 1, 0
        )
    done, ends = 0, np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    while done < total:
        upto = min(done + _AT_ONCE, total)
        places = np.arange(done, upto)
        at = np.searchsorted(ends, places, side="right")
        offsets = (places - (ends[at] - counts[at])).astype(np.uint64)
        yield first[at] + offsets * step
        done = upto


def _page_range(
    snapshot: Snapshot, rows: NDArray[np.intp], page_bytes: int
) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """The first and the last page of each record."""
    keys, size = _keys_of(snapshot, rows), np.uint64(page_bytes)
    lasts = keys + np.maximum(snapshot.records["size"][rows], np.uint64(1)) - np.uint64(1)
    # A size that can't be true must not lead to another process.
    lasts = np.minimum(lasts, keys | ((np.uint64(1) << SLOT_SHIFT) - np.uint64(1)))
    lasts = np.where(lasts < keys, keys, lasts)
    return keys // size * size, lasts // size * size


def _keys_of(snapshot: Snapshot, rows: NDArray[np.intp]) -> NDArray[np.uint64]:
    addresses: NDArray[np.uint64] = snapshot.addresses[rows].astype(np.uint64)
    if snapshot.record_slots is None:
        return addresses
    slots: NDArray[np.uint64] = snapshot.record_slots[rows].astype(np.uint64) << SLOT_SHIFT
    return addresses | slots


def _expanded(counts: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """For each of so many: its number, and its place among those of the same number."""
    numbers = np.repeat(np.arange(len(counts)), counts)
    return numbers, np.arange(len(numbers)) - np.repeat(np.cumsum(counts) - counts, counts)


def _hashed(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of splitmix64."""
    hashed = keys.copy()
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        hashed = (hashed ^ (hashed >> np.uint64(shift))) * np.uint64(factor)
    return hashed ^ (hashed >> np.uint64(31))
