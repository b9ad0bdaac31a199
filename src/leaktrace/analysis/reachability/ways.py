"""The most common ways to some blocks, told as steps. Several paths may be told in the same way:
those of several processes, or through two places of one function."""

from __future__ import annotations

from dataclasses import dataclass, replace

from leaktrace.analysis.reachability.paths import PathStep
from leaktrace.reach import Holder, HolderStep

MOST_WAYS = 5

Steps = tuple[HolderStep, ...]


@dataclass
class _Way:
    steps: Steps
    count: int = 0
    bytes: int = 0


class Ways:
    """Collects them."""

    def __init__(self) -> None:
        self._known: dict[Steps, _Way] = {}
        self._total = 0

    def of_count(self, count: int) -> None:
        """There are so many more blocks."""
        self._total += count

    def add(self, steps: Steps, count: int, size_bytes: int) -> None:
        """Some of them are held in this way."""
        same = tuple(replace(one, offset=None, last_offset=None) for one in steps)
        way = self._known.setdefault(same, _Way(steps))
        way.steps = tuple(map(_widened, way.steps, steps))
        way.count += count
        way.bytes += size_bytes

    def holders(self) -> tuple[Holder, ...]:
        """The most common ones, the first of them first."""
        ordered = sorted(self._known.values(), key=lambda one: (-one.count, len(one.steps)))
        return tuple(
            Holder(one.steps, one.count, one.bytes, self._total) for one in ordered[:MOST_WAYS]
        )


def placed(step: HolderStep, on_path: PathStep) -> HolderStep:
    """The step, as it is on a path."""
    return replace(
        step,
        offset=on_path.next_low,
        last_offset=on_path.next_high,
        repeats=on_path.repeats,
        to_middle=on_path.to_middle,
    )


def _widened(one: HolderStep, other: HolderStep) -> HolderStep:
    """The step with the offsets of both."""
    low = [step.offset for step in (one, other) if step.offset is not None]
    high = [step.last_offset for step in (one, other) if step.last_offset is not None]
    return replace(one, offset=min(low, default=None), last_offset=max(high, default=None))
