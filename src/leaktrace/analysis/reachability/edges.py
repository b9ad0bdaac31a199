"""Pointers between blocks, by the block that they are in: those of one block lie together."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def by_source(sources: NDArray[np.int32], *columns: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    """`sources` in ascending order, and the columns parallel to them."""
    if not (np.diff(sources) < 0).any():
        return sources, *columns
    order = np.argsort(sources, kind="stable")  # memory was not read by ascending address
    return sources[order], *(one[order] for one in columns)


def firsts(count: int, sources: NDArray[np.int32]) -> NDArray[np.int64]:
    """Where the pointers of each of `count` blocks begin; one more at the end. `sources`: in
    order."""
    found = np.searchsorted(sources, np.arange(count + 1, dtype=np.int32))
    return found.astype(np.int64)


def pointers_of(
    first: NDArray[np.int64], blocks: NDArray[np.intp]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows of all pointers of these blocks, and how many each has. `first`: see `firsts`."""
    begins = first[blocks]
    counts = first[blocks + 1] - begins
    before = np.concatenate([[0], np.cumsum(counts)])
    return np.arange(before[-1]) + np.repeat(begins - before[:-1], counts), counts
