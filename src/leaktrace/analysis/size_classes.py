"""How many blocks of each site have which size, and their bytes: a column for each power of two."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CLASSES = 65  # a size is in the class of the number of its bits
_MOST_SITES = 50_000  # 25 MB for each of the two
_ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class SizeClasses:
    """A row for each site; both have CLASSES columns, and each row adds up to what the site
    holds."""

    counts: NDArray[np.int64]
    bytes: NDArray[np.int64]

    def of(self, row: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The blocks and the bytes of a site by class, up to the last class that it has
        (Site.sizes, Site.size_bytes)."""
        filled = np.nonzero(self.counts[row] | self.bytes[row])[0]
        end = int(filled[-1]) + 1 if len(filled) else 0
        return tuple(self.counts[row, :end].tolist()), tuple(self.bytes[row, :end].tolist())


def size_classes(
    sizes: NDArray[np.uint64],
    rows: NDArray[np.intp],
    counts: NDArray[np.int64],
    held: NDArray[np.int64],
    weights: NDArray[np.float64] | None = None,
) -> SizeClasses | None:
    """The classes of blocks with these sizes, each at the site of its row. `counts` and `held`:
    what the sites hold; `weights`: how many blocks each block stands for, if it is not one. None
    for so many sites that it takes too much memory."""
    length = len(counts)
    if length > _MOST_SITES:
        return None
    # The exponent is the number of bits; a double is not off by one below 2**53.
    bits = np.frexp(sizes.astype(np.float64))[1].clip(0, CLASSES - 1)
    places = rows * CLASSES + bits
    if weights is None:
        number = np.bincount(places, minlength=length * CLASSES).astype(np.int64)
        summed = np.zeros(length * CLASSES, dtype=np.int64)
        np.add.at(summed, places, sizes.view(np.int64))
        return SizeClasses(number.reshape(-1, CLASSES), summed.reshape(-1, CLASSES))
    filled = []
    for each, sums in ((weights, counts), (weights * sizes, held)):
        summed_up = np.bincount(places, each, length * CLASSES)
        values = summed_up.astype(np.float64, copy=False).reshape(-1, CLASSES)
        whole = np.empty(values.shape, dtype=np.int64)
        for begin in range(0, length, _ROWS_AT_ONCE):
            part = slice(begin, begin + _ROWS_AT_ONCE)
            whole[part] = _rounded(values[part], sums[part])
        filled.append(whole)
    return SizeClasses(*filled)


def _rounded(values: NDArray[np.float64], sums: NDArray[np.int64]) -> NDArray[np.int64]:
    """Whole numbers near the values, each row of which adds up to exactly its sum. (Numbers that
    are rounded one by one don't.)"""
    until = np.minimum(np.floor(np.cumsum(values, axis=1) + 0.5).astype(np.int64), sums[:, None])
    # After the last class that a row has, its sum is reached.
    later = np.cumsum(values[:, ::-1] > 0, axis=1)[:, ::-1]
    until = np.where(later <= (values > 0), sums[:, None], until)
    return np.diff(until, axis=1, prepend=np.int64(0))
