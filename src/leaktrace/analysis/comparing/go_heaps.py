"""The heaps of two reports of `leaktrace go`, compared: as a whole, by size and by type of objects.

What is in use has garbage in it until it is collected. What collections leave has none.
"""

from __future__ import annotations

from collections.abc import Iterable
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
    # Sizes and types that only one report lists, while the other one doesn't list all.
    unknown_count: int


def compare_go_heaps(base: Report, new: Report) -> GoHeapDiff | None:
    """None unless both reports have a heap."""
    if base.go_heap is None or new.go_heap is None:
        return None
    older, newer = base.go_heap, new.go_heap
    sizes, unknown_sizes = _compared(
        _parts(older.sizes), _parts(newer.sizes), _has_all_sizes(older), _has_all_sizes(newer)
    )
    types: tuple[PartChange, ...] = ()
    unknown_types = 0
    if older.look.types is not None and newer.look.types is not None:
        types, unknown_types = _compared(
            _parts(older.types), _parts(newer.types), _has_all_types(older), _has_all_types(newer)
        )
    return GoHeapDiff(older, newer, sizes, types, unknown_sizes + unknown_types)


_Parts = dict[SizeKey | TypeKey, SeenObjects]


def _parts(listed: Iterable[SizeFigures | TypeFigures]) -> _Parts:
    return {one.key: one.now for one in listed}


def _has_all_sizes(heap: GoHeap) -> bool:
    return len(heap.sizes) == heap.size_count


def _has_all_types(heap: GoHeap) -> bool:
    return len(heap.types) == heap.type_count


def _compared(
    base: _Parts, new: _Parts, base_has_all: bool, new_has_all: bool
) -> tuple[tuple[PartChange, ...], int]:
    """The parts that differ, and how many can't be compared."""
    changes, unknown_count = [], 0
    for key in {**base, **new}:
        if (key in base or base_has_all) and (key in new or new_has_all):
            changes.append(PartChange(key, base.get(key, _NOTHING), new.get(key, _NOTHING)))
        else:
            unknown_count += 1
    changed = [one for one in changes if one.base != one.new]
    return tuple(sorted(changed, key=_order)), unknown_count


def _order(one: PartChange) -> tuple[bool, int, int]:
    return one.difference_bytes <= 0, -abs(one.difference_bytes), -one.new.size_bytes
