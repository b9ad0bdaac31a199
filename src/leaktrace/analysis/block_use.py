"""What is known of the use of blocks, from the pages that they are on (--idle)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Of each record of a snapshot, parallel to them. A page that several blocks of a stack are on is
# divided among these, so that sums by site are pages.
BLOCK_USE = np.dtype(
    [
        ("looked_bytes", "<u4"),
        ("idle_bytes", "<u4"),
        ("looked_pages", "<f4"),
        ("idle_pages", "<f4"),
    ]
)


@dataclass(frozen=True)
class BlockUse:
    """What was found about the records of a snapshot."""

    use: NDArray[np.void]  # BLOCK_USE
    for_s: float  # a page is idle if it was not touched for so long

    def chosen(self, rows: NDArray[np.bool_] | NDArray[np.intp]) -> BlockUse:
        """Of some of the records."""
        return BlockUse(self.use[rows], self.for_s)
