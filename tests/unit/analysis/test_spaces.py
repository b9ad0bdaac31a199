"""A snapshot is taken apart by the space of its records."""

from __future__ import annotations

from typing import Any

import numpy as np
from hand_made_snapshots import Counted, Held, snapshot

from leaktrace.analysis.snapshot import Snapshot
from leaktrace.analysis.spaces import split
from leaktrace.model import Total


def key(space: int, address: int) -> int:
    return space << 48 | address


def made(held: list[Held], owners: list[int], **more: Any) -> Snapshot:
    counted = [Counted(number, (100 * number, number)) for number in range(1, len(owners) + 1)]
    whole = snapshot(held, counted, **more)
    whole.sites["owner"] = owners
    return whole


def total(part: Snapshot) -> Total:
    return Total(int(part.records["size"].sum()), len(part.records))


def test_each_space_has_its_records_and_sites() -> None:
    address = 0x7FFF_F000_1000
    held = [
        Held(2, 20, address=key(1, address)),
        Held(1, 10, address=address),
        Held(3, 1, address=key(2, 3)),
        Held(2, 30, address=key(1, 8)),
    ]
    heap = split(made(held, [0, 1, 2]), 2)
    first, second = heap.sections
    assert [total(part) for part in (heap, first, second)] == [
        Total(10, 1),
        Total(50, 2),
        Total(1, 1),
    ]
    assert [part.addresses.tolist() for part in (heap, first, second)] == [
        [address],
        [address, 8],
        [3],
    ]
    assert [part.site_ids.tolist() for part in (heap, first, second)] == [[1], [2], [3]]


def test_regions_stay_last() -> None:
    held = [Held(2, 5, address=key(1, 16)), Held(1, 7), Held(1, 4096), Held(1, 8192)]
    heap = split(made(held, [0, 1], region_count=2), 1)
    assert heap.region_count == 2
    assert heap.records["size"].tolist() == [7, 4096, 8192]
    assert heap.sections[0].region_count == 0


def test_without_pairs_nothing_is_copied() -> None:
    whole = snapshot([Held(1, 10)])
    assert split(whole, 0) is whole


def test_a_pair_without_records() -> None:
    heap = split(made([Held(1, 10)], [0]), 1)
    assert total(heap.sections[0]) == Total()
    assert np.array_equal(heap.records, snapshot([Held(1, 10)]).records)
