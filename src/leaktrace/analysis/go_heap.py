"""Compares the heap of a Go program with that of the first look."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Protocol, TypeVar

from leaktrace.go_report import (
    Change,
    GoHeap,
    GoLine,
    HeapLook,
    ProfileKey,
    RefillSection,
    SeenObjects,
    SeenSite,
    SiteFigures,
    SizeFigures,
    TypeFigures,
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


class GoHeapHistory:
    """The first look and the last one. `lines` names the functions of a stack."""

    def __init__(self, top: int, lines: Lines) -> None:
        self._top, self._lines = top, lines
        self._first: HeapLook | None = None
        self._last: HeapLook | None = None

    def add(self, look: HeapLook) -> None:
        """Take in a look."""
        if self._first is None:
            self._first = look
        self._last = look

    def figures(self, refills: RefillSection | None = None) -> GoHeap | None:
        """What there is to say about the last look; None before the first one."""
        first, look = self._first, self._last
        if first is None or look is None:
            return None
        change = self._change
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
        return GoHeap(
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
            sizes=self._best(sizes, lambda row: row.now.size_bytes),
            size_count=len(sizes),
            types=self._best(types, lambda row: row.now.size_bytes),
            type_count=len(types),
            sites=tuple(self._named(*one) for one in sites[: self._top]),
            site_count=len(sites),
            refills=refills,
        )

    def _sites(
        self, first: HeapLook, look: HeapLook
    ) -> list[tuple[ProfileKey, SeenSite, Change | None]]:
        """By what is in use, the largest first."""
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
            rows.append((key, now, change if first.profile is not None else None))
        return sorted(rows, key=lambda row: (-row[1].in_use_bytes, -row[1].allocated_bytes, row[0]))

    def _named(self, key: ProfileKey, now: SeenSite, change: Change | None) -> SiteFigures:
        return SiteFigures(now, change, self._lines(key.stack))

    def _change(self, before: SeenObjects, now: SeenObjects) -> Change | None:
        assert self._first is not None and self._last is not None  # callers have looked
        elapsed_s = self._last.time_s - self._first.time_s
        if elapsed_s <= 0:
            return None
        size = now.size_bytes - before.size_bytes
        return Change(now.count - before.count, size, size / elapsed_s)

    def _best(self, rows: list[_Row], size: Callable[[_Row], int]) -> tuple[_Row, ...]:
        """What grew most first, then what is largest."""

        def rank(row: _Row) -> tuple[int, int]:
            grown = row.change.size_bytes if row.change is not None else 0
            return -max(grown, 0), -size(row)

        return tuple(sorted(rows, key=rank)[: self._top])


_Value = TypeVar("_Value")


def _all(
    before: Mapping[_Key, _Value], now: Mapping[_Key, _Value], nothing: _Value
) -> dict[_Key, _Value]:
    """What there is now, and nothing of what there was before."""
    return {**dict.fromkeys(before, nothing), **now}
