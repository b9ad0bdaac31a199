"""Compares looks at goroutines: which groups of them pile up.

A goroutine that was in its group in one look only says nothing: it may be short-lived. One that was
there in two looks running is settled. A group leaks if its goroutines become more and more, and
none has left: neither ended, nor gone on to wait elsewhere. If some have left, but never one that
had settled, the settled ones must have become more again and again: half of the goroutines get an
answer at once, and the others never do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

from leaktrace.go_report import GoroutineLook, GoVerdict, GroupGrowth, GroupKey, SeenGroup

_WINDOW = 10  # looks that are compared: what has left before is forgotten
_FEWEST_LOOKS = 3
# What shows growth: many new ones in several looks (at one moment alone they may be a start), or a
# few again and again. A few in few looks may be there by chance: on a busy machine each step lasts.
_MANY, _RISES_OF_MANY = 10, 2
_FEW, _RISES_OF_FEW = 5, 5
_NEEDED_SETTLED_RISES = 4  # where others come and leave: it takes six looks
_NONE = SeenGroup(frozenset(), 0)
_ORDER = (GoVerdict.LEAKING, GoVerdict.TOO_EARLY, GoVerdict.TURNOVER, GoVerdict.STEADY)


@dataclass(frozen=True)
class _Step:
    """What one look said about a group."""

    count: int
    settled_count: int
    left: bool  # a settled one has
    any_left: bool  # some have, settled or not
    came: bool  # some have
    is_rise: bool  # there were more than in the look before, and new ones among them


@dataclass
class _History:
    ids: frozenset[int] = frozenset()
    settled: frozenset[int] = frozenset()
    steps: deque[_Step] = field(default_factory=lambda: deque(maxlen=_WINDOW))


class GoroutineGroups:
    """The groups of one program over some looks."""

    def __init__(self) -> None:
        self._times_s: deque[float] = deque(maxlen=_WINDOW)
        self._counts: deque[int] = deque(maxlen=_WINDOW)
        self._histories: dict[GroupKey, _History] = {}
        self._newest_id = 0

    def add(self, look: GoroutineLook) -> tuple[GroupGrowth, ...]:
        """The groups in a look, compared with the looks before it: leaking ones first."""
        is_first = not self._times_s
        self._times_s.append(look.time_s)
        self._counts.append(look.alive_count - look.system_count)
        for key in self._histories.keys() | look.groups.keys():
            self._follow(key, look, is_first=is_first)
        newest = (max(group.ids) for group in look.groups.values() if group.ids)
        self._newest_id = max(self._newest_id, max(newest, default=0))
        grown = (self._growth(key, group) for key, group in look.groups.items())
        return tuple(sorted(grown, key=_rank))

    def growth_per_s(self) -> float | None:
        """Of all goroutines of the program; None after a single look."""
        return self._rate(self._counts)

    def _follow(self, key: GroupKey, look: GoroutineLook, *, is_first: bool) -> None:
        history = self._histories.setdefault(key, _History())
        ids = look.groups.get(key, _NONE).ids
        if not history.steps and not is_first:  # it had none in the look before
            history.steps.append(_Step(0, 0, left=False, any_left=False, came=False, is_rise=False))
        came = ids - history.ids
        # On the move now: it may come back.
        away = history.settled - ids
        gone = away - look.moving_ids
        settled = (ids & history.ids) | (away - gone)
        is_new = any(goid > self._newest_id for goid in came)
        is_rise = bool(history.steps) and len(ids) > len(history.ids) and is_new
        any_left = bool(history.ids - ids - look.moving_ids)
        history.steps.append(
            _Step(len(ids), len(settled), bool(gone), any_left, bool(came), is_rise)
        )
        history.ids, history.settled = ids, settled
        if not any(step.count for step in history.steps):
            del self._histories[key]

    def _growth(self, key: GroupKey, group: SeenGroup) -> GroupGrowth:
        steps = self._histories[key].steps
        looks = list(self._times_s)[-len(steps) :]
        return GroupGrowth(
            key=key,
            count=len(group.ids),
            growth=steps[-1].count - steps[0].count,
            growth_per_s=self._rate([step.count for step in steps]),
            verdict=_verdict(list(steps), len(self._times_s), can_leak=group.can_leak),
            stack_bytes=group.stack_bytes,
            longest_wait_ns=group.longest_wait_ns,
            since_s=looks[-1] - looks[0],
            look_count=len(steps),
        )

    def _rate(self, counts: Iterable[int]) -> float | None:
        numbers = list(counts)
        times = list(self._times_s)[-len(numbers) :]
        if len(numbers) < 2 or times[-1] <= times[0]:
            return None
        return (numbers[-1] - numbers[0]) / (times[-1] - times[0])


def _verdict(steps: list[_Step], look_count: int, *, can_leak: bool) -> GoVerdict:
    if look_count < _FEWEST_LOOKS or len(steps) < 2:
        return GoVerdict.TOO_EARLY
    since = steps[1:]
    if not any(step.came or step.any_left for step in since):
        return GoVerdict.STEADY
    if any(step.left for step in steps):
        return GoVerdict.TURNOVER
    if can_leak and _piles_up(steps):
        return GoVerdict.LEAKING
    if any(step.any_left for step in since):
        return GoVerdict.TURNOVER
    return GoVerdict.TOO_EARLY


def _piles_up(steps: list[_Step]) -> bool:
    """Whether a group that no settled one has left has become larger and larger, lately too."""
    settled = [step.settled_count for step in steps if step.count]
    if len(settled) < _FEWEST_LOOKS or steps[-1].count <= steps[0].count:
        return False
    rises = sum(step.is_rise for step in steps)
    lately = any(step.is_rise for step in steps[len(steps) // 2 :])
    # In the first look in which a group is seen, none can have settled.
    settled_growth = settled[-1] - settled[1]
    if any(step.any_left for step in steps[1:]):
        settled_rises = sum(now > before for before, now in pairwise(settled[1:]))
        return lately and settled_rises >= _NEEDED_SETTLED_RISES and settled_growth >= _FEW
    growth = steps[-1].count - steps[0].count
    is_much = growth >= _MANY and rises >= _RISES_OF_MANY
    return lately and settled_growth > 0 and (is_much or rises >= _RISES_OF_FEW)


def verdict_of_all(groups: Iterable[GroupGrowth]) -> GoVerdict:
    """The verdict about a program: that of its worst group."""
    verdicts = {group.verdict for group in groups}
    return next((one for one in _ORDER if one in verdicts), GoVerdict.STEADY)


def _rank(group: GroupGrowth) -> tuple[bool, float, int, GroupKey]:
    is_leaking = group.verdict is GoVerdict.LEAKING
    return (not is_leaking, -(group.growth if is_leaking else 0), -group.count, group.key)
