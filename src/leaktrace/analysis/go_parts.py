"""Which part of a Go heap grows most, by size or type of objects.

What is in use has garbage in it, which comes and goes. So a part counts with what it grows at
least: the lower end of the confidence interval of its slope over the looks (Theil and Sen).
"""

from __future__ import annotations

import numpy as np

from leaktrace.analysis.verdicts.bounded import Course
from leaktrace.analysis.verdicts.series import slope_of
from leaktrace.go_report import HeapLook, SeenObjects, SizeKey, TypeKey

_MOST_LOOKS = 64
_MOST_PARTS = 256  # of a look that are kept, the largest
_FEWEST_LOOKS = 3
_OFTEN = 0.5  # of the looks in which a part must have been, for its slope to be known
_MOST_TRIED = 20  # parts, those with the largest change
_MOSTLY = 0.5  # of what a size grows, at least, are objects of a type that is named instead

Part = SizeKey | TypeKey


class GoParts:
    """The largest sizes and types of objects of one heap over some looks."""

    def __init__(self) -> None:
        self._looks = Course[dict[Part, int]](_MOST_LOOKS)

    def add(self, look: HeapLook) -> None:
        """Take in a look."""
        parts: list[tuple[Part, SeenObjects]] = [*look.sizes.items()]
        if look.types is not None:
            parts += look.types.types.items()
        parts.sort(key=lambda part: -part[1].size_bytes)
        self._looks.add(look.time_s, {key: now.size_bytes for key, now in parts[:_MOST_PARTS]})

    def grown_most(self) -> Part | None:
        """The part that grows most for certain: a type, if most of it is of that type. None if no
        part is certain to grow."""
        if not self._looks.points:
            return None
        first, last = self._looks.points[0][1], self._looks.points[-1][1]
        changed = sorted(last, key=lambda key: first.get(key, 0) - last[key])
        least: dict[type[Part], tuple[float, Part]] = {}
        for key in changed[:_MOST_TRIED]:
            per_s = self._least_per_s(key)
            if per_s > 0 and per_s > least.get(type(key), (0.0, key))[0]:
                least[type(key)] = per_s, key
        size, kind = least.get(SizeKey), least.get(TypeKey)
        if size is not None and kind is not None and kind[0] >= _MOSTLY * size[0]:
            return kind[1]
        return None if size is None else size[1]

    def _least_per_s(self, key: Part) -> float:
        """0 if it isn't known. A part that is missing in a look may have been too small to be
        kept."""
        points = [(at, parts[key]) for at, parts in self._looks.points if key in parts]
        if len(points) < max(_FEWEST_LOOKS, _OFTEN * len(self._looks)):
            return 0.0
        times, sizes = zip(*points, strict=True)
        return slope_of(np.array(times), np.array(sizes, dtype=np.float64)).lowest_per_s
