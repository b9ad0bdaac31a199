"""What a look at the memory of a process has found about its blocks."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

SLOT_SHIFT = np.uint64(48)  # of a key: the number of the process, above the address


class BlockClass(IntEnum):
    """What is known of one block; the larger, the more it is lost."""

    UNKNOWN = 0  # not looked at: too young, or of another process
    REACHABLE = 1
    POSSIBLE = 2
    INDIRECT = 3
    DEFINITE = 4

    @property
    def is_lost(self) -> bool:
        return self >= BlockClass.INDIRECT


@dataclass(frozen=True)
class Reach:
    """What was found about the records of a snapshot, parallel to them."""

    classes: NDArray[np.uint8]  # BlockClass
    leaders: NDArray[np.uint64]  # of indirectly lost ones: the address of the block that leads

    def chosen(self, rows: NDArray[np.bool_] | NDArray[np.intp]) -> Reach:
        """Of some of the records."""
        return Reach(self.classes[rows], self.leaders[rows])
