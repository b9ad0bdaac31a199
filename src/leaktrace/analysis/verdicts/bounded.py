"""Keeps a history short, however long it gets: evenly in time, from its beginning to its end."""

from __future__ import annotations

from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

_Value = TypeVar("_Value")


def joined(edges: NDArray[np.int64], most: int) -> NDArray[np.intp]:
    """Which slices of time become one, so that there are at most `most`: the number of the first
    one of each. `edges` are the times between them, one more than there are slices. The two
    neighbours that are the shortest together are joined first, so no slice gets much longer than
    others."""
    first = np.arange(len(edges) - 1)
    while len(first) > most:
        ends = np.append(edges[first[1:]], edges[-1])
        together = ends[1:] - edges[first[:-1]]
        first = np.delete(first, int(np.argmin(together)) + 1)
    return first


def thinned(times: NDArray[np.int64], most: int) -> NDArray[np.intp]:
    """Which points of a series are kept, at most `most`, the first and the last among them: those
    that are missed the least go, because their neighbours are the nearest to each other."""
    kept = np.arange(len(times))
    while len(kept) > most:
        between = times[kept[2:]] - times[kept[:-2]]
        kept = np.delete(kept, int(np.argmin(between)) + 1)
    return kept


class Course(Generic[_Value]):
    """Values at some times, in their order; at most twice `most`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.points: list[tuple[float, _Value]] = []  # seconds, value

    def __len__(self) -> int:
        return len(self.points)

    def add(self, time_s: float, value: _Value) -> None:
        """Add the latest value."""
        self.points.append((time_s, value))
        if len(self.points) > 2 * self._most:
            times = np.array([round(at * 1e9) for at, _ in self.points], dtype=np.int64)
            self.points = [self.points[one] for one in thinned(times, self._most)]
