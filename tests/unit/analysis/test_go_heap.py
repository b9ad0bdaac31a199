"""What is said about the heap of a Go program, from looks made by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sample_go import HEAP

from leaktrace.analysis.go_heap import GoHeapHistory
from leaktrace.go_report import (
    Collector,
    GoLine,
    ProfileKey,
    ProfileLook,
    SeenObjects,
    SeenSite,
    SizeKey,
)

SMALL = SizeKey(48, has_pointers=True, is_large=False)
LARGE = SizeKey(131_072, has_pointers=False, is_large=True)
GONE = SizeKey(64, has_pointers=True, is_large=False)


def lines(stack: tuple[int, ...]) -> tuple[GoLine, ...]:
    return tuple(GoLine(f"main.f{address}", "/src/f.go", address) for address in stack)


FIRST = replace(
    HEAP.look,
    time_s=100.0,
    collector=Collector(100, None, 3, 1000),
    in_use_bytes=2_000_000,
    object_count=40,
    sizes={
        SMALL: SeenObjects(10, 480),
        LARGE: SeenObjects(15, 1_966_080),
        GONE: SeenObjects(15, 960),
    },
    types=None,
    profile=None,
)
LATER = replace(
    FIRST,
    time_s=110.0,
    collector=Collector(100, None, 5, 4000),
    in_use_bytes=2_000_500,
    object_count=50,
    sizes={SMALL: SeenObjects(110, 5280), LARGE: SeenObjects(15, 1_966_080)},
)


def test_one_look_shows_no_growth() -> None:
    history = GoHeapHistory(10, lines)
    assert history.figures() is None
    history.add(FIRST)
    heap = history.figures()
    assert heap is not None
    assert heap.change is None
    assert heap.live_change_bytes is None
    assert [one.key for one in heap.sizes] == [LARGE, GONE, SMALL]


def test_what_grew_comes_first_and_what_is_gone_is_shown_as_gone() -> None:
    history = GoHeapHistory(10, lines)
    history.add(FIRST)
    history.add(LATER)
    heap = history.figures()
    assert heap is not None
    assert [(one.key, one.change and one.change.size_bytes) for one in heap.sizes] == [
        (SMALL, 4800),
        (LARGE, 0),
        (GONE, -960),
    ]
    assert heap.change is not None
    assert heap.change.bytes_per_s == 50.0
    assert (heap.collections_since, heap.live_change_bytes) == (2, 3000)


def test_a_profile_that_is_switched_on_later_has_no_growth_yet() -> None:
    sites = {
        ProfileKey((1, 2)): SeenSite(1, 100, 5, 500),
        ProfileKey((3,)): SeenSite(2, 900, 2, 900),
    }
    history = GoHeapHistory(1, lines)
    history.add(FIRST)
    history.add(replace(LATER, profile=ProfileLook(512, sites, 2, 0)))
    heap = history.figures()
    assert heap is not None
    assert heap.site_count == 2
    (site,) = heap.sites
    assert site.change is None
    assert site.frames == lines((3,))


MAIN = GoLine("runtime.main", "/usr/lib/go-1.24/src/runtime/proc.go", 283)
BUFFER = GoLine("bytes.growSlice", "/usr/lib/go-1.24/src/bytes/buffer.go", 249)
OWN = GoLine("shop/bytes.Fill", "/home/shop/src/bytes/fill.go", 12)


@pytest.mark.parametrize(
    ("frames", "named"),
    [
        ((BUFFER, OWN, MAIN), OWN),
        ((OWN, BUFFER, MAIN), OWN),
        ((BUFFER, MAIN), BUFFER),  # the `go` command itself, for instance
        ((BUFFER, OWN), BUFFER),  # cut short, so that the library's directory isn't known
        # With -trimpath.
        ((replace(BUFFER, file="bytes/buffer.go"), replace(MAIN, file="runtime/proc.go")), None),
        ((), None),
    ],
)
def test_what_grew_is_named_by_the_program_s_own_function(
    frames: tuple[GoLine, ...], named: GoLine | None
) -> None:
    key = ProfileKey((1,))
    history = GoHeapHistory(10, lambda _stack: frames)
    for number in range(12):
        in_use = 1_000_000 + number * 500_000
        history.add(
            replace(
                FIRST,
                time_s=100.0 + number * 10,
                collector=Collector(100, None, 3 + number, in_use),
                in_use_bytes=in_use,
                profile=ProfileLook(512, {key: SeenSite(number, in_use, number, in_use)}, 1, 0),
            )
        )
    heap = history.figures()
    assert heap is not None
    assert heap.grown_most is not None
    assert heap.grown_most.allocated_at == (named or next(iter(frames), None))
