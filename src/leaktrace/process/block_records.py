"""The blocks of one process that have a record, to be searched by address."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class BlockRecords:
    """Parallel, by ascending address."""

    addresses: NDArray[np.uint64]
    sizes: NDArray[np.uint64]
    stack_ids: NDArray[np.uint64]
    times_ns: NDArray[np.uint64]

    @classmethod
    def of(cls, addresses: NDArray[np.uint64], values: NDArray[np.void]) -> BlockRecords:
        """`values`: abi.ALLOCATION, in any order."""
        order = np.argsort(addresses)
        values = values[order]
        return cls(addresses[order], values["size"], values["stack_id"], values["time_ns"])

    def __len__(self) -> int:
        return len(self.addresses)

    def at(self, address: int) -> int | None:
        """The row of the block that has the byte at an address."""
        row = int(np.searchsorted(self.addresses, np.uint64(address), side="right")) - 1
        if row < 0:
            return None
        size = max(int(self.sizes[row]), 1)
        return row if address < int(self.addresses[row]) + size else None
