"""Which groups of goroutines pile up, over looks that are made by hand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import pytest

from leaktrace.analysis.goroutine_groups import GoroutineGroups
from leaktrace.go_report import GoroutineLook, GoVerdict, GroupGrowth, GroupKey, SeenGroup

KEY = GroupKey("chan receive", (1, 2, 3), 4, 5)
OTHER = GroupKey("select", (6, 7), 4, 5)


def look(
    time_s: float, ids: Iterable[int], other: Iterable[int] = (), moving: Iterable[int] = ()
) -> GoroutineLook:
    groups = {
        key: SeenGroup(frozenset(some), 2048)
        for key, some in ((KEY, frozenset(ids)), (OTHER, frozenset(other)))
        if some
    }
    alive = sum(len(group.ids) for group in groups.values())
    return GoroutineLook(time_s, 0.01, groups, frozenset(moving), alive, 0)


def after(looks: Sequence[GoroutineLook]) -> dict[GroupKey, GroupGrowth]:
    groups = GoroutineGroups()
    grown: tuple[GroupGrowth, ...] = ()
    for one in looks:
        grown = groups.add(one)
    return {one.key: one for one in grown}


def verdict(*ids: Iterable[int]) -> GoVerdict:
    return after([look(number, some) for number, some in enumerate(ids)])[KEY].verdict


def test_none_ever_leaves_a_group_that_grows() -> None:
    found = after([look(2.0 * number, range(10 + 6 * number)) for number in range(4)])[KEY]
    assert found.verdict is GoVerdict.LEAKING
    assert (found.count, found.growth, found.growth_per_s) == (28, 18, 3.0)


@pytest.mark.parametrize("looks", [1, 2])
def test_too_few_looks(looks: int) -> None:
    assert verdict(*(range(10 * number + 1) for number in range(looks))) is GoVerdict.TOO_EARLY


def test_the_same_ones_in_each_look() -> None:
    assert verdict(*[range(50)] * 5) is GoVerdict.STEADY


@pytest.mark.parametrize("looks", range(3, 30))
def test_short_lived_ones_are_turnover_in_every_look(looks: int) -> None:
    """Also while there are more and more."""
    ids = [range(1000 * number, 1000 * number + 10 * (number + 1)) for number in range(looks)]
    assert verdict(*ids) is GoVerdict.TURNOVER


def test_some_of_them_get_an_answer_at_once() -> None:
    """The others never do."""
    forgotten: list[int] = []
    looks = []
    for number in range(8):
        forgotten += range(100 * number, 100 * number + 5)
        looks.append([*forgotten, *range(100 * number + 50, 100 * number + 60)])
    assert verdict(*looks) is GoVerdict.LEAKING
    assert verdict(*looks[:4]) is GoVerdict.TURNOVER  # not known yet


def test_some_outlast_a_look_by_chance() -> None:
    """On a busy machine, for instance."""
    ids = [range(5), range(10, 15), range(20, 24), range(20, 28), range(20, 32)]
    assert verdict(*ids) is GoVerdict.TURNOVER


def test_a_slow_leak_takes_more_looks() -> None:
    ids = [range(10 + number) for number in range(8)]
    assert [verdict(*ids[: number + 1]) for number in range(8)] == [
        *[GoVerdict.TOO_EARLY] * 5,
        *[GoVerdict.LEAKING] * 3,
    ]


def test_a_group_that_has_just_begun() -> None:
    assert verdict([], [], [], range(5), range(10)) is GoVerdict.TOO_EARLY


def test_one_that_had_settled_has_left() -> None:
    assert verdict(range(10), range(20), range(30), range(1, 40)) is GoVerdict.TURNOVER


def test_those_on_the_move_have_not_left() -> None:
    """A ticker wakes one now and then: it is met while it runs, and comes back."""
    looks = [
        look(0, range(10)),
        look(1, range(20)),
        look(2, set(range(30)) - {3}, moving=[3]),
        look(3, range(40)),
    ]
    assert after(looks)[KEY].verdict is GoVerdict.LEAKING


def test_those_that_wait_elsewhere_have_left() -> None:
    looks = [look(number, range(number, 10 * number + 5), range(number)) for number in range(5)]
    assert after(looks)[KEY].verdict is GoVerdict.TURNOVER


def test_those_that_come_from_elsewhere_are_not_new() -> None:
    """A pool of 50: more and more of them wait for the same."""
    looks = [look(number, range(10 * number), range(10 * number, 50)) for number in range(5)]
    assert after(looks)[KEY].verdict is not GoVerdict.LEAKING


def test_a_pool_that_starts_is_not_a_leak() -> None:
    assert verdict([], range(50), range(50), range(50), range(50)) is not GoVerdict.LEAKING


def test_a_leak_that_has_stopped() -> None:
    """Nothing has come for a while: those that are there stay."""
    ids = [range(10), range(20), range(30), *[range(30)] * 6]
    assert verdict(*ids) is not GoVerdict.LEAKING


def test_those_that_wait_for_the_collector_are_no_leak() -> None:
    looks = [
        replace(one, groups={key: replace(g, can_leak=False) for key, g in one.groups.items()})
        for one in (look(number, range(10 + 6 * number)) for number in range(5))
    ]
    assert after(looks)[KEY].verdict is GoVerdict.TOO_EARLY


def test_a_group_that_has_ended_is_forgotten() -> None:
    groups = GoroutineGroups()
    groups.add(look(0, range(10), range(100, 110)))
    for number in range(1, 15):
        groups.add(look(number, range(10)))
    assert {one.key for one in groups.add(look(20, range(10)))} == {KEY}
    assert groups.growth_per_s() == 0


def test_leaking_ones_come_first() -> None:
    groups = GoroutineGroups()
    for number in range(4):
        grown = groups.add(look(number, range(1000), range(2000, 2010 + 5 * number)))
    assert [one.verdict for one in grown] == [GoVerdict.LEAKING, GoVerdict.STEADY]
