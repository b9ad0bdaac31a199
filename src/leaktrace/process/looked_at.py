"""The memory of a process in which holders of blocks are looked for: as it is now, or as it was
copied while the process was stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from leaktrace.targets.bulk_memory import PIECE_BYTES, BulkReader, Piece, pieces
from leaktrace.targets.memory import ProcessMemory
from leaktrace.targets.memory_image import WORD_BYTES, MemoryImage
from leaktrace.targets.remote_read import MOST_RANGES, read_into

Words = NDArray[np.uint64]


class LookedAt(Protocol):
    """Such memory."""

    def read(self, address: int, size: int) -> bytes:
        """At most `size` bytes; fewer if what follows is not there."""

    def first_words(self, starts: Words) -> Words:
        """The words at these addresses, multiples of 8; 0 for those that can't be read. Raises
        OSError when the process has ended, or its memory must not be read."""

    def read_all(self, ranges: Words) -> Iterator[Piece]:
        """Ranges [start, end), n x 2, multiples of 8, piece by piece: the words of one are valid
        until the next. Raises OSError likewise."""


class LiveMemory:
    """That of a process as it is now."""

    def __init__(self, pid: int, opened: ExitStack) -> None:
        """`opened`: closes it. Raises OSError when the process has ended."""
        self._pid = pid
        self._memory = opened.enter_context(ProcessMemory(pid))

    def read(self, address: int, size: int) -> bytes:
        with suppress(OSError):
            return self._memory.read(address, size)
        return b""

    def first_words(self, starts: Words) -> Words:
        words = np.zeros(len(starts), dtype=np.uint64)
        ranges = np.stack([starts, starts + np.uint64(WORD_BYTES)], axis=1)
        row = 0
        while row < len(ranges):
            some = ranges[row : row + MOST_RANGES]
            got = read_into(words[row:].ctypes.data, self._pid, some) // WORD_BYTES
            row += got if got == len(some) else got + 1
        return words

    def read_all(self, ranges: Words) -> Iterator[Piece]:
        return BulkReader(self._pid).read_all(ranges)


class CopiedMemory:
    """That of one instant."""

    def __init__(self, image: MemoryImage, read_constant: Callable[[int, int], bytes]) -> None:
        """`read_constant`: memory that was not copied, since it is as files have it."""
        self._image = image
        self._read_constant = read_constant

    def read(self, address: int, size: int) -> bytes:
        return self._image.read(address, size) or self._read_constant(address, size)

    def first_words(self, starts: Words) -> Words:
        return self._image.gather(starts)

    def read_all(self, ranges: Words) -> Iterator[Piece]:
        for some in pieces(ranges, PIECE_BYTES, MOST_RANGES):
            counts = ((some[:, 1] - some[:, 0]) // np.uint64(WORD_BYTES)).astype(np.int64)
            inside = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            offsets = inside.astype(np.uint64) * np.uint64(WORD_BYTES)
            words = self._image.gather(np.repeat(some[:, 0], counts) + offsets)
            yield Piece(words, some, 0)
