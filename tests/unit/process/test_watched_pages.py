"""What is known of watched pages, over a series of looks that are made up."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from leaktrace.process.watched_pages import WatchedPages

NAN = float("nan")


def watched(*frames: int) -> WatchedPages:
    keys = np.arange(1, len(frames) + 1, dtype=np.uint64) << np.uint64(12)
    return WatchedPages.none().only(keys, np.array(frames, dtype=np.uint64))


def look(
    pages: WatchedPages,
    now_s: float,
    ages_s: Sequence[float],
    frames: Sequence[int] | None = None,
    unmarked: Sequence[int] = (),
) -> WatchedPages:
    """`frames`: where the pages are now, if they have moved; `unmarked`: pages by position."""
    now = pages.frames if frames is None else np.array(frames, dtype=np.uint64)
    is_marked = ~np.isin(np.arange(len(pages)), unmarked)
    return pages.looked_at(now_s, now, is_marked, np.array(ages_s, dtype=np.float64))


def test_nothing_is_known_at_first() -> None:
    pages = look(watched(7, 8), 100, [50, 0])  # a frame may have been unused before
    assert not pages.known(1).any()
    assert not pages.idle(1).any()


def test_a_page_that_is_never_used() -> None:
    pages = watched(7)
    for now_s in range(100, 111):
        pages = look(pages, now_s, [now_s - 90])
    assert pages.known(10).tolist() == pages.idle(10).tolist() == [True]
    assert pages.idle_s.tolist() == [10]
    assert not pages.known(10.5).any()


def test_a_page_that_is_used() -> None:
    pages = watched(7)
    for now_s in range(100, 131):
        pages = look(pages, now_s, [0])
    assert pages.known(10).all()
    assert not pages.idle(1).any()


def test_after_a_use_further_ones_may_be_missed_until_processors_forget() -> None:
    """Seen at 104.5; at 105, processors forget: idle from then on."""
    pages = watched(7)
    for now_s in range(100, 111):
        pages = look(pages, now_s, [now_s - 90 if now_s < 105 else now_s - 104.5])
    assert pages.idle_s.tolist() == [5]
    # Without a look for long, much may have been missed.
    pages = look(look(watched(7), 100, [0]), 200, [99])
    assert pages.known(50).tolist() == [True]
    assert pages.idle(50).tolist() == [False]
    assert look(pages, 260, [159]).idle_s.tolist() == [60]


@pytest.mark.parametrize(
    "event",
    [
        {"frames": [9]},  # it has moved
        {"frames": [0]},  # it was released, or swapped out
        {"unmarked": [0]},
        {"ages_s": [NAN]},  # the frame is not watched
    ],
)
def test_unknown_again(event: dict[str, Sequence[float]]) -> None:
    pages = watched(7)
    for now_s in range(100, 121):
        pages = look(pages, now_s, [now_s])
    assert pages.idle(20).all()
    after = look(pages, 121, **{"ages_s": [121], **event})  # type: ignore[arg-type]
    assert not after.known(0).any()
    # From then on it is watched anew, where it is now.
    later = look(look(after, 122, [122]), 125, [125])
    assert later.known(3).all() == (event.get("frames") != [0])
    assert not later.known(4).any()


def test_other_pages() -> None:
    pages = look(look(watched(7, 8, 9), 100, [0, 0, 0]), 110, [20, 20, 20])
    keys = np.array([0x1000, 0x2000, 0x5000], dtype=np.uint64)
    other = pages.only(keys, np.array([7, 80, 9], dtype=np.uint64))
    assert other.known(10).tolist() == [True, False, False]  # the second has moved
    assert look(other, 120, [30, 30, 30]).idle_s.tolist()[0] == 20
    assert len(pages.only(keys[:0], keys[:0])) == 0
