"""Which part of a Go heap grows most, by size or type of objects.

What is in use has garbage in it, which comes and goes. So a part counts with what it grows at
least: the lower end of the confidence interval of its slope over the looks (Theil and Sen).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from leaktrace.analysis.verdicts.bounded import thinned
from leaktrace.analysis.verdicts.series import slope_of
from leaktrace.go_report import HeapLook, SeenObjects, SizeKey, TypeKey

_MOST_LOOKS = 64
_FEWEST_LOOKS = 3
_MOST_TRIED = 20  # parts, those with the largest change
_MOSTLY = 0.5  # of what a size grows, at least, are objects of a type that is named instead

Part = SizeKey | TypeKey
_NOTHING = SeenObjects(0, 0)


class _Kept(NamedTuple):
    time_s: float
    parts: Mapping[Part, SeenObjects]


class GoParts:
    """The sizes and types of objects of one heap over some looks; bounded, however many these
    are."""

    def __init__(self) -> None:
        self._looks: list[_Kept] = []

    def add(self, look: HeapLook) -> None:
        """Take in a look."""
        parts: dict[Part, SeenObjects] = dict(look.sizes.items())
        if look.types is not None:
            parts.update(look.types.types.items())
        self._looks.append(_Kept(look.time_s, parts))
        if len(self._looks) > 2 * _MOST_LOOKS:
            times = np.array([round(one.time_s * 1e9) for one in self._looks], dtype=np.int64)
            self._looks = [self._looks[one] for one in thinned(times, _MOST_LOOKS)]

    def grown_most(self) -> Part | None:
        """The part that grows most for certain: a type, if most of it is of that type. None if no
        part is certain to grow."""
        if len(self._looks) < _FEWEST_LOOKS:
            return None
        first, last = self._looks[0].parts, self._looks[-1].parts
        changes = {
            key: now.size_bytes - first.get(key, _NOTHING).size_bytes for key, now in last.items()
        }
        tried = sorted(changes, key=lambda key: -changes[key])[:_MOST_TRIED]
        least = {key: self._least_per_s(key) for key in tried if changes[key] > 0}
        sizes = [key for key in least if isinstance(key, SizeKey)]
        best = max(sizes, key=lambda key: least[key], default=None)
        if best is None or least[best] <= 0:
            return None
        types = [key for key in least if isinstance(key, TypeKey)]
        kind = max(types, key=lambda key: least[key], default=None)
        return kind if kind is not None and least[kind] >= _MOSTLY * least[best] else best

    def _least_per_s(self, key: Part) -> float:
        times = np.array([one.time_s for one in self._looks])
        sizes = [one.parts.get(key, _NOTHING).size_bytes for one in self._looks]
        return slope_of(times, np.array(sizes, dtype=np.float64)).lowest_per_s
