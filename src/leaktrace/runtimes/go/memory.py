"""Reads many small pieces of a process's memory at once, without stopping it.

The process goes on meanwhile: what was read at two moments may not fit together, and callers check
that. Addresses come from its memory, so any may be wrong: a piece that can't be read is left out.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leaktrace.arch.x86_64 import USER_SPACE_END
from leaktrace.targets.remote_read import MOST_RANGES, read_into

MAX_READ_BYTES = 1 << 30  # by one call

Words = NDArray[np.uint64]


@dataclass(frozen=True)
class Pieces:
    """Piece i is `data[starts[i] : starts[i] + sizes[i]]`: zeros where `was_read[i]` is false."""

    data: NDArray[np.uint8]
    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]
    was_read: NDArray[np.bool_]


class GoMemory:
    """The memory of one process. Every method raises OSError: ESRCH when the process has ended,
    EPERM when its memory must not be read."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def read(self, address: int, size: int) -> bytes | None:
        """`size` bytes; None where they can't be read."""
        pieces = self.gather(np.array([address], np.uint64), np.array([size], np.int64))
        return pieces.data.tobytes() if pieces.was_read[0] else None

    def word(self, address: int) -> int | None:
        """A 64-bit number; None where it can't be read."""
        raw = self.read(address, 8)
        return None if raw is None else int(struct.unpack("<Q", raw)[0])

    def rows(self, addresses: Words, size: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """`size` bytes at each address, n x size, and which of them could be read."""
        pieces = self.gather(addresses, np.full(len(addresses), size, np.int64))
        return pieces.data.reshape(len(addresses), size), pieces.was_read

    def words(self, addresses: Words) -> tuple[Words, NDArray[np.bool_]]:
        """The 64-bit number at each address, and which of them could be read."""
        raw, was_read = self.rows(addresses, 8)
        return raw.view(np.uint64)[:, 0], was_read

    def gather(self, addresses: Words, sizes: NDArray[np.int64]) -> Pieces:
        """Pieces of different sizes."""
        total = int(sizes.sum())
        if total > MAX_READ_BYTES:
            raise ValueError(f"{total:,} bytes at once")
        starts = np.cumsum(sizes) - sizes
        data = np.zeros(max(total, 1), np.uint8)[:total]
        end = np.uint64(USER_SPACE_END)
        wanted = (sizes > 0) & (addresses < end) & (addresses + sizes.astype(np.uint64) <= end)
        was_read = np.zeros(len(addresses), np.bool_)
        was_read[sizes == 0] = True
        # What can't be read must not lie between what can: the pieces are filled in order.
        order = wanted.nonzero()[0]
        at = 0
        while at < len(order):
            some = order[at : at + MOST_RANGES]
            # Only neighbours in the buffer are read by one call.
            broken = (starts[some][1:] != starts[some][:-1] + sizes[some][:-1]).nonzero()[0]
            if len(broken):
                some = some[: int(broken[0]) + 1]
            ranges = np.stack((addresses[some], addresses[some] + sizes[some].astype(np.uint64)), 1)
            first = int(starts[some[0]])
            got = read_into(data.ctypes.data + first, self._pid, ranges)
            ends = starts[some] + sizes[some] - first
            done = int(np.searchsorted(ends, got, side="right"))
            was_read[some[:done]] = True
            if done < len(some):  # the next one can't be read, or not to its end
                begun, size = int(starts[some[done]]), int(sizes[some[done]])
                data[begun : begun + size] = 0
                done += 1
            at += done
        return Pieces(data, starts, sizes, was_read)
