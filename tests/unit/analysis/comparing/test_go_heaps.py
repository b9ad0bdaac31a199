"""Differences of the heaps that `leaktrace go` has reported, from reports made by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sample_go import GROWING, HEAP, SAMPLED

from leaktrace.analysis.comparing.changes import Diff, compare
from leaktrace.analysis.comparing.go_heaps import compare_go_heaps
from leaktrace.analysis.go_sites import go_sites
from leaktrace.go_report import (
    GoHeap,
    SeenObjects,
    SizeFigures,
    SizeKey,
    TypeFigures,
    TypeKey,
    TypesLook,
)
from leaktrace.model import Report
from leaktrace.report.diff_notes import notes

SMALL, LARGE = (SizeKey(size, has_pointers=True, is_large=False) for size in (64, 4096))
SESSION, CONFIG = TypeKey("main.Session", 4008), TypeKey("main.Config", 1024)
TYPES = TypesLook({}, unknown=SeenObjects(0, 0), not_read_count=0)
Sizes = dict[SizeKey, tuple[int, int]]
Types = dict[TypeKey, tuple[int, int]]


def heap_of(sizes: Sizes, types: Types | None = None, others: int = 0, not_read: int = 0) -> GoHeap:
    """`others`: how many sizes, and types, are not listed. `types` None: they can't be known."""
    look = replace(
        HEAP.look, types=None if types is None else replace(TYPES, not_read_count=not_read)
    )
    return replace(
        HEAP,
        look=look,
        sizes=tuple(SizeFigures(key, SeenObjects(*held), None) for key, held in sizes.items()),
        size_count=len(sizes) + others,
        types=tuple(
            TypeFigures(key, SeenObjects(*held), None) for key, held in (types or {}).items()
        ),
        type_count=len(types or {}) + others,
    )


def compared(base: GoHeap | None, new: GoHeap | None) -> Diff:
    return compare(go_sites(replace(GROWING, heap=base)), go_sites(replace(GROWING, heap=new)))


def test_what_has_grown_comes_first() -> None:
    base = heap_of({SMALL: (10, 640), LARGE: (3, 12_288)}, {SESSION: (3, 12_288)})
    new = heap_of({SMALL: (20, 1280)}, {SESSION: (3, 12_288), CONFIG: (2, 2048)})
    diff = compared(base, new).go_heap
    assert diff is not None
    assert [(one.key, one.difference_count, one.difference_bytes) for one in diff.sizes] == [
        (SMALL, 10, 640),
        (LARGE, -3, -12_288),
    ]
    assert [(one.key, one.difference_bytes) for one in diff.types] == [(CONFIG, 2048)]
    assert diff.unknown_count == 0


@pytest.mark.parametrize(
    ("others", "not_read", "unknown"),
    [(1, 0, 2), (0, 5, 1), (0, 0, 0)],
    ids=["lists-cut-short", "types-not-read", "complete"],
)
def test_what_may_be_in_the_other_one_is_not_compared(
    others: int, not_read: int, unknown: int
) -> None:
    base = heap_of({SMALL: (10, 640)}, {SESSION: (3, 12_288)}, others, not_read)
    new = heap_of({LARGE: (3, 12_288)}, {SESSION: (4, 16_384), CONFIG: (2, 2048)})
    for diff in (compare_go_heaps(*map(go_sites_of, pair)) for pair in ((base, new), (new, base))):
        assert diff is not None
        assert diff.unknown_count == unknown
        # What only the complete report lacks is known to be 0 there.
        assert SMALL in {one.key for one in diff.sizes}
        assert (LARGE in {one.key for one in diff.sizes}) == (not others)
        assert (CONFIG in {one.key for one in diff.types}) == (not others and not not_read)
        assert SESSION in {one.key for one in diff.types}


def go_sites_of(heap: GoHeap) -> Report:
    return go_sites(replace(GROWING, heap=heap))


def test_types_that_only_one_report_has_are_counted() -> None:
    old_go = heap_of({SMALL: (10, 640)})
    new_go = heap_of({SMALL: (10, 640)}, {SESSION: (3, 12_288), CONFIG: (2, 2048)})
    for base, new in ((old_go, new_go), (new_go, old_go)):
        diff = compared(base, new).go_heap
        assert diff is not None
        assert (diff.types, diff.unknown_count) == ((), 2)
    neither = compared(old_go, old_go).go_heap
    assert neither is not None
    assert neither.unknown_count == 0


@pytest.mark.parametrize("label", ["base", "new"])
def test_only_one_has_a_heap(label: str) -> None:
    heap = replace(HEAP, look=replace(HEAP.look, profile=None), sites=(), site_count=0)
    diff = compared(heap, None) if label == "base" else compared(None, heap)
    assert diff.go_heap is None
    assert f"the heap as a whole isn't compared: only {label} has one" in list(notes(diff))


def test_what_a_look_has_left_out_is_said() -> None:
    look = replace(HEAP.look, skipped_span_count=3, types=replace(TYPES, not_read_count=1))
    found = list(notes(compared(HEAP, replace(HEAP, look=look))))
    assert "incomplete in new: 3 spans of the heap left out: changed at each read" in found
    assert "incomplete in new: 1 object whose types were not looked at" in found
    assert not [one for one in found if "incomplete in base" in one]


def test_without_a_profile_in_both() -> None:
    found = notes(compare(go_sites(SAMPLED), go_sites(SAMPLED)))
    assert [one for one in found if one.endswith("no profile of the heap in base and new")]
