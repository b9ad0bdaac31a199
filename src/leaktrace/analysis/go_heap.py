"""Compares the heap of a Go program with that of the first look."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from leaktrace.analysis.go_library import innermost_own
from leaktrace.analysis.go_parts import GoParts
from leaktrace.analysis.verdicts.live_heap import LiveHeap
from leaktrace.go_report import (
    Change,
    GoHeap,
    GoLine,
    GrownPart,
    HeapLook,
    ProfileKey,
    RefillSection,
    SeenObjects,
    SeenSite,
    SiteFigures,
    SizeFigures,
    TypeFigures,
    TypeKey,
)

# The functions of a stack of the profile.
Lines = Callable[[tuple[int, ...]], tuple[GoLine, ...]]


class _Figures(Protocol):
    @property
    def change(self) -> Change | None: ...


_Key = TypeVar("_Key", bound=Hashable)
_Row = TypeVar("_Row", bound=_Figures)
_NOTHING = SeenObjects(0, 0)
_NO_SITE = SeenSite(0, 0, 0, 0)


@dataclass(frozen=True)
class _Site:
    """A site of the profile."""

    key: ProfileKey
    now: SeenSite
    change: Change | None


class GoHeapHistory:
    """The first look and the last one. `lines` names the functions of a stack."""

    def __init__(self, top: int, lines: Lines) -> None:
        self._top, self._lines = top, lines
        self._first: HeapLook | None = None
        self._last: HeapLook | None = None
        self._live = LiveHeap()
        self._parts = GoParts()

    def add(self, look: HeapLook) -> None:
        """Take in a look."""
        if self._first is None:
            self._first = look
        self._last = look
        self._live.add(look)
        self._parts.add(look)

    def figures(self, refills: RefillSection | None = None) -> GoHeap | None:
        """What there is to say about the last look; None before the first one."""
        first, look = self._first, self._last
        if first is None or look is None:
            return None
        change = self._change
        top, verdict = self._top, self._live.verdict()
        sizes = [
            SizeFigures(key, now, change(first.sizes.get(key, _NOTHING), now))
            for key, now in _all(first.sizes, look.sizes, _NOTHING).items()
        ]
        before = first.types.types if first.types is not None else {}
        types = (
            [
                TypeFigures(key, now, change(before.get(key, _NOTHING), now))
                for key, now in _all(before, look.types.types, _NOTHING).items()
            ]
            if look.types is not None
            else []
        )
        sites = self._sites(first, look)
        collections = look.collector.collections - first.collector.collections
        heap = GoHeap(
            look=look,
            change=change(
                SeenObjects(first.object_count, first.in_use_bytes),
                SeenObjects(look.object_count, look.in_use_bytes),
            ),
            collections_since=collections,
            live_change_bytes=(
                look.collector.live_bytes - first.collector.live_bytes
                if collections > 0 and first.collector.collections > 0
                else None
            ),
            sizes=tuple(_by_growth(sizes, lambda row: row.now.size_bytes)[:top]),
            size_count=len(sizes),
            types=tuple(_by_growth(types, lambda row: row.now.size_bytes)[:top]),
            type_count=len(types),
            sites=tuple(map(self._named, sites[:top])),
            site_count=len(sites),
            refills=refills,
            verdict=verdict,
        )
        if not verdict.grows:
            return heap
        return replace(heap, grown_most=self._grown_most(heap, [*sizes, *types]))

    def _sites(self, first: HeapLook, look: HeapLook) -> list[_Site]:
        if look.profile is None:
            return []
        before = first.profile.sites if first.profile is not None else {}
        rows = []
        for key, now in look.profile.sites.items():
            old = before.get(key, _NO_SITE)
            change = self._change(
                SeenObjects(old.in_use_count, old.in_use_bytes),
                SeenObjects(now.in_use_count, now.in_use_bytes),
            )
            rows.append(_Site(key, now, change if first.profile is not None else None))
        rows.sort(key=lambda row: (-row.now.allocated_bytes, row.key))
        return _by_growth(rows, lambda row: row.now.in_use_bytes)

    def _named(self, site: _Site) -> SiteFigures:
        return SiteFigures(site.now, site.change, self._lines(site.key.stack))

    def _grown_most(
        self, heap: GoHeap, parts: Sequence[SizeFigures | TypeFigures]
    ) -> GrownPart | None:
        """By what is most exact: sites say where it was allocated, and have no garbage."""
        for site in heap.sites[:1]:
            if site.change is not None and site.change.size_bytes > 0:
                return GrownPart(site.change, allocated_at=_own(site.frames))
        key = self._parts.grown_most()
        change = next((one.change for one in parts if one.key == key), None)
        if key is None or change is None:
            return None
        if isinstance(key, TypeKey):
            return GrownPart(change, type_name=key.name)
        return GrownPart(change, object_bytes=key.object_bytes)

    def _change(self, before: SeenObjects, now: SeenObjects) -> Change | None:
        assert self._first is not None and self._last is not None  # callers have looked
        elapsed_s = self._last.time_s - self._first.time_s
        if elapsed_s <= 0:
            return None
        size = now.size_bytes - before.size_bytes
        return Change(now.count - before.count, size, size / elapsed_s)


def _own(frames: Sequence[GoLine]) -> GoLine | None:
    """The innermost function that isn't known to be one of Go's library, else the innermost."""
    at = innermost_own([(one.function, one.file) for one in frames])
    return frames[at or 0] if frames else None


def _by_growth(rows: list[_Row], size: Callable[[_Row], int]) -> list[_Row]:
    """What grew most first, then what is largest."""

    def rank(row: _Row) -> tuple[int, int]:
        grown = row.change.size_bytes if row.change is not None else 0
        return -max(grown, 0), -size(row)

    return sorted(rows, key=rank)


_Value = TypeVar("_Value")


def _all(
    before: Mapping[_Key, _Value], now: Mapping[_Key, _Value], nothing: _Value
) -> dict[_Key, _Value]:
    """What there is now, and nothing of what there was before."""
    return {**dict.fromkeys(before, nothing), **now}
