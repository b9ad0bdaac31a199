"""The heaps of two reports of `leaktrace go`, compared: as a whole, by size and by type of objects.

What is in use has garbage in it until it is collected. What collections leave has none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from leaktrace.go_report import GoHeap, SeenObjects, SizeFigures, SizeKey, TypeFigures, TypeKey
from leaktrace.model import Report

_NOTHING = SeenObjects(0, 0)


@dataclass(frozen=True)
class PartChange:
    """Objects of one size, or of one type, in both reports."""

    key: SizeKey | TypeKey
    base: SeenObjects
    new: SeenObjects

    @property
    def difference_bytes(self) -> int:
        return self.new.size_bytes - self.base.size_bytes

    @property
    def difference_count(self) -> int:
        return self.new.count - self.base.count


@dataclass(frozen=True)
class GoHeapDiff:
    """Two heaps. Of sizes and types those that differ are listed: what has grown first, then what
    has shrunk, the largest difference of each first."""

    base: GoHeap
    new: GoHeap
    sizes: tuple[PartChange, ...]
    types: tuple[PartChange, ...]
    # Sizes and types that only one report lists, while the other one doesn't list all, or none.
    unknown_count: int


def compare_go_heaps(base: Report, new: Report) -> GoHeapDiff | None:
    """None unless both reports have a heap."""
    if base.go_heap is None or new.go_heap is None:
        return None
    older, newer = base.go_heap, new.go_heap
    sizes, unknown_sizes = _compared(_sizes(older), _sizes(newer))
    types, unknown_types = _compared(_types(older), _types(newer))
    return GoHeapDiff(older, newer, sizes, types, unknown_sizes + unknown_types)


class _Parts:
    """What a report lists. A part that isn't listed is 0 if it lists all, else None."""

    def __init__(self, listed: Iterable[SizeFigures | TypeFigures], count: int | None) -> None:
        """`count`: how many there are; None if that isn't known."""
        self._listed = {one.key: one.now for one in listed}
        self._others = _NOTHING if len(self._listed) == count else None

    def __iter__(self) -> Iterator[SizeKey | TypeKey]:
        return iter(self._listed)

    def of(self, key: SizeKey | TypeKey) -> SeenObjects | None:
        return self._listed.get(key, self._others)


def _sizes(heap: GoHeap) -> _Parts:
    return _Parts(heap.sizes, heap.size_count)


def _types(heap: GoHeap) -> _Parts:
    types = heap.look.types
    is_counted = types is not None and not types.not_read_count
    return _Parts(heap.types, heap.type_count if is_counted else None)


def _compared(base: _Parts, new: _Parts) -> tuple[tuple[PartChange, ...], int]:
    """The parts that differ, and how many can't be compared."""
    changes, unknown_count = [], 0
    for key in dict.fromkeys((*base, *new)):
        before, now = base.of(key), new.of(key)
        if before is None or now is None:
            unknown_count += 1
        else:
            changes.append(PartChange(key, before, now))
    changed = [one for one in changes if one.base != one.new]
    return tuple(sorted(changed, key=_order)), unknown_count


def _order(one: PartChange) -> tuple[bool, int, int]:
    return one.difference_bytes <= 0, -abs(one.difference_bytes), -one.new.size_bytes
