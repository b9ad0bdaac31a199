"""Which code was mapped where, and when."""

from __future__ import annotations

from hypothesis import given, strategies

from leaktrace.symbols.views import CodeViews, Gaps, Region
from leaktrace.targets.mappings import Mapping

PAGE = 4096


def code(name: str, start: int, pages: int = 1) -> Region:
    inode = sum(name.encode())
    mapping = Mapping(start, start + pages * PAGE, "r-xp", 0, "08:01", inode, f"/lib/{name}.so")
    return Region(mapping, None)


def generated(start: int, pages: int = 1) -> Region:
    return Region(Mapping(start, start + pages * PAGE, "rwxp", 0, "00:00", 0, ""), None)


MAIN, A, B = code("main", 0x1000), code("a", 0x10000), code("b", 0x10000)
ELSEWHERE = code("b", 0x20000)


def test_what_is_unmapped_keeps_its_meaning() -> None:
    views = CodeViews()
    views.see([MAIN, A])
    views.see([MAIN])
    assert len(views) == 1
    assert views.at(0, 1, 1).region_at(0x10000) == A


def test_another_meaning_is_another_view_and_the_first_one_comes_back() -> None:
    views = CodeViews()
    for _ in range(10):
        views.see([MAIN, A])
        assert views.now.number == 0
        views.see([MAIN, B])
        assert views.now.number == 1
    assert len(views) == 2
    assert views.at(0, 5, 5).region_at(0x10000) == A
    assert views.at(1, 5, 5).region_at(0x10000) == B
    assert views.at(1, 5, 5).region_at(0x1000) == MAIN


def test_code_made_at_run_time_in_the_place_of_a_library() -> None:
    views = CodeViews()
    views.see([A])
    views.see([generated(0x10000, pages=2)])
    assert len(views) == 2
    views.see([generated(0x10000, pages=3)])  # it has grown
    assert len(views) == 2


def test_loads_after_the_list_was_made() -> None:
    views = CodeViews()
    views.see([MAIN])
    for epoch, region in ((2, A), (4, B), (6, A), (8, ELSEWHERE)):
        views.see_loaded(epoch, (region,))
    for epoch, expected in ((2, A), (3, A), (4, B), (5, B), (6, A), (7, A), (9, A)):
        assert views.at(0, 1, epoch).region_at(0x10000) == expected
    assert views.at(0, 1, 7).region_at(0x20000) in (None, ELSEWHERE)
    assert views.at(0, 1, 8).region_at(0x20000) == ELSEWHERE
    assert views.at(0, 5, 6).region_at(0x10000) == A


def test_a_load_that_is_reported_late() -> None:
    views = CodeViews()
    views.see([MAIN, A])
    views.see_loaded(4, (A,))
    views.see_loaded(2, (B,))
    assert views.at(0, 1, 3).region_at(0x10000) == B
    assert views.at(0, 1, 4).region_at(0x10000) == A


def test_an_unknown_moment_has_what_never_changed() -> None:
    views = CodeViews()
    views.see([MAIN, A])
    views.see([MAIN, B])
    unknown = views.at(0, 0, 0)
    assert unknown.region_at(0x1000) == MAIN
    assert unknown.region_at(0x10000) is None


def test_a_stack_that_needs_a_lost_load_is_unknown() -> None:
    views = CodeViews()
    views.see([MAIN])
    views.see_loaded(2, (A,))
    assert views.at(0, 1, 2).region_at(0x10000) == A
    views.gaps.update(sent_up_to=2, lost_count=1, epoch=2)
    assert views.at(0, 1, 2).is_forgotten
    assert views.at(0, 1, 1).region_at(0x1000) == MAIN


def test_a_lost_load_does_not_matter_after_the_next_look() -> None:
    """The list that was made in epoch 5 contains what the lost event would have reported."""
    views = CodeViews()
    views.see([MAIN])
    views.gaps.update(sent_up_to=1, lost_count=0, epoch=1)
    views.gaps.update(sent_up_to=5, lost_count=3, epoch=5)  # lost in an epoch from 2 to 5
    views.see([MAIN, A])
    views.gaps.update(sent_up_to=7, lost_count=3, epoch=7)
    views.see_loaded(7, (ELSEWHERE,))
    assert views.at(0, 5, 5).region_at(0x10000) == A
    assert views.at(0, 5, 7).region_at(0x20000) == ELSEWHERE
    assert views.at(0, 1, 2).is_forgotten
    assert views.at(0, 4, 7).is_forgotten
    views.gaps.update(sent_up_to=8, lost_count=4, epoch=9)
    assert views.at(0, 7, 8).is_forgotten
    assert not views.at(0, 5, 7).is_forgotten


def test_events_lost_while_no_library_was_loaded_do_not_matter() -> None:
    """Those of mmap, munmap and mremap are counted with those of libraries."""
    views = CodeViews()
    views.see([MAIN])
    views.see_loaded(4, (A,))
    views.gaps.update(sent_up_to=4, lost_count=0, epoch=4)
    views.gaps.update(sent_up_to=4, lost_count=1000, epoch=4)
    assert views.at(0, 1, 4).region_at(0x10000) == A


@given(
    losses=strategies.lists(strategies.integers(1, 30), max_size=6),
    counts=strategies.lists(strategies.integers(1, 30), min_size=1, max_size=6),
    since=strategies.integers(1, 30),
    length=strategies.integers(1, 30),
)
def test_every_lost_load_is_in_a_gap(
    losses: list[int], counts: list[int], since: int, length: int
) -> None:
    """Against the epochs in which something was lost: gaps may be too wide, but never miss one."""
    gaps = Gaps()
    for epoch in [*sorted(counts), 31]:
        gaps.update(epoch, sum(lost <= epoch for lost in losses), epoch)
    if any(since < lost <= since + length for lost in losses):
        assert gaps.affect(since, since + length)
    if not losses:
        assert not gaps.affect(since, since + length)


def test_the_oldest_of_too_many_views_is_forgotten() -> None:
    views = CodeViews()
    for number in range(1002):
        views.see([code(f"library-{number}-{'x' * number}", 0x10000)])
    assert views.at(0, 1, 1).is_forgotten
    assert views.now.region_at(0x10000) is not None
