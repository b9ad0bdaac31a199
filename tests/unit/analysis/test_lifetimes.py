"""Lifetimes of sites that are chosen, merged and divided with their snapshot."""

from __future__ import annotations

import numpy as np
from hand_made_snapshots import Counted, Held, build, builder, snapshot

from leaktrace.analysis.lifetimes import LifetimeCounts
from leaktrace.analysis.same_sites import add_up_sites
from leaktrace.analysis.snapshot import Snapshot
from leaktrace.analysis.spaces import divide
from leaktrace.analysis.split import split
from leaktrace.verdict import Lifetimes


def counts(*rows: tuple[int, ...], known: tuple[bool, ...] | None = None) -> LifetimeCounts:
    return LifetimeCounts(
        np.array(rows, dtype=np.uint64),
        np.array([True] * len(rows) if known is None else known, dtype=np.bool_),
    )


def three(**more: object) -> Snapshot:
    """Sites 1, 2 and 3, of which the last one has no counts."""
    return snapshot(
        [Held(1, 10), Held(2, 20), Held(3, 30)],
        [Counted(number, (100, 10)) for number in (1, 2, 3)],
        lifetimes=counts((0, 3, 1), (5, 0, 0), (0, 0, 0), known=(True, True, False)),
        **more,
    )


def of(snapshot: Snapshot) -> dict[int, Lifetimes]:
    return snapshot.lifetimes_of(snapshot.site_ids.tolist())


def test_each_site_has_its_row() -> None:
    assert of(three()) == {1: Lifetimes((0, 3, 1)), 2: Lifetimes((5,))}
    assert three().lifetimes_of([2]) == {2: Lifetimes((5,))}
    assert of(snapshot([Held(1, 10)])) == {}


def test_a_site_from_which_nothing_was_freed_has_a_histogram() -> None:
    one = snapshot([Held(1, 10)], lifetimes=counts((0, 0)))
    assert of(one) == {1: Lifetimes(())}


def test_those_of_one_site_are_added_up() -> None:
    merged = add_up_sites(three(), np.array([1, 1, 3], dtype=np.uint64))
    assert of(merged) == {1: Lifetimes((5, 3, 1))}
    # Unless one of them isn't known.
    merged = add_up_sites(three(), np.array([1, 2, 2], dtype=np.uint64))
    assert of(merged) == {1: Lifetimes((0, 3, 1))}


def test_the_representative_may_come_last() -> None:
    merged = add_up_sites(three(), np.array([2, 2, 3], dtype=np.uint64))
    assert of(merged) == {2: Lifetimes((5, 3, 1))}


def test_each_space_has_its_own() -> None:
    spaces = np.array([0, 1, 0])
    heap = divide(
        three(unseen_releases=7), spaces.astype(np.uint8), spaces.astype(np.uint16), pair_count=1
    )
    (pair,) = heap.sections
    assert of(heap) == {1: Lifetimes((0, 3, 1))}
    assert of(pair) == {2: Lifetimes((5,))}
    assert (heap.unseen_releases, pair.unseen_releases) == (7, None)


def test_each_process_has_its_own() -> None:
    slots = np.array([4, 5, 4], dtype=np.uint16)
    whole = three(record_slots=slots, site_slots=slots, unseen_releases=7)
    owners = np.array([1, 1, 3], dtype=np.uint64)
    parts = split(whole, add_up_sites(whole, owners), owners, [4, 5])
    assert [of(part.snapshot) for part in parts] == [
        {1: Lifetimes((0, 3, 1))},
        {1: Lifetimes((5,))},
    ]


def test_a_report_has_those_of_its_sites() -> None:
    by_id = {site.bytes: site.lifetimes for site in build(builder(), three()).sites}
    assert by_id == {10: Lifetimes((0, 3, 1)), 20: Lifetimes((5,)), 30: None}
