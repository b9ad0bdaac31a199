"""A snapshot is taken apart by the space of its records."""

from __future__ import annotations

from typing import Any

import numpy as np
from hand_made_snapshots import Counted, Held, snapshot

from leaktrace.analysis.snapshot import Snapshot
from leaktrace.analysis.spaces import divide
from leaktrace.site import Total


def divided(
    held: list[tuple[int, Held]], sites: list[int], pair_count: int, **more: Any
) -> Snapshot:
    """Records with their spaces, and the spaces of sites 1, 2, …"""
    counted = [Counted(number, (100 * number, number)) for number in range(1, len(sites) + 1)]
    whole = snapshot([one for _, one in held], counted, **more)
    spaces = np.array([space for space, _ in held], dtype=np.uint8)
    return divide(whole, spaces, np.array(sites, dtype=np.uint16), pair_count)


def total(part: Snapshot) -> Total:
    return Total(int(part.records["size"].sum()), len(part.records))


def test_each_space_has_its_records_and_sites() -> None:
    address = 0x7FFF_F000_1000
    held = [
        (1, Held(2, 20, address=address)),
        (0, Held(1, 10, address=address)),
        (2, Held(3, 1, address=3)),
        (1, Held(2, 30, address=8)),
    ]
    slots = np.array([7, 8, 9, 10], dtype=np.uint16)
    heap = divided(held, [0, 1, 2], 2, record_slots=slots, site_slots=slots[:3])
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
    assert first.record_slots is not None
    assert first.record_slots.tolist() == [7, 10]
    assert first.site_slots is not None
    assert first.site_slots.tolist() == [8]


def test_regions_stay_last() -> None:
    held = [(1, Held(2, 5)), (0, Held(1, 7)), (0, Held(1, 4096)), (0, Held(1, 8192))]
    heap = divided(held, [0, 1], 1, region_count=2)
    assert heap.region_count == 2
    assert heap.records["size"].tolist() == [7, 4096, 8192]
    assert heap.sections[0].region_count == 0


def test_without_pairs_nothing_is_copied() -> None:
    whole = snapshot([Held(1, 10)])
    none = np.zeros(1, dtype=np.uint16)
    assert divide(whole, none.astype(np.uint8), none, 0) is whole


def test_a_pair_without_records() -> None:
    heap = divided([(0, Held(1, 10))], [0], 1)
    assert total(heap.sections[0]) == Total()
    assert np.array_equal(heap.records, snapshot([Held(1, 10)]).records)
