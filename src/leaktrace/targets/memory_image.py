"""The memory of a process at one instant: copied while it was stopped, or that of a core file.

Heap walks and reachability ask it for single words, for many words at once, and for everything
piece by piece. What is not in it reads as 0 or as fewer bytes: the heap of a process that was
written over may lead anywhere.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]

WORD_BYTES = 8
PIECE_WORDS = 1 << 17


@dataclass(frozen=True, eq=False)
class Segment:
    """Words of memory that follow each other. `start`: a multiple of 8, in bytes."""

    start: int
    words: Words

    @property
    def end(self) -> int:
        return self.start + len(self.words) * WORD_BYTES

    def addresses(self, indices: NDArray[np.intp]) -> Words:
        """Where these words are."""
        return np.uint64(self.start) + indices.astype(np.uint64) * np.uint64(WORD_BYTES)


class MemoryImage:
    """Segments by ascending address. They don't overlap."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        self.segments = tuple(sorted(segments, key=lambda one: one.start))
        self._starts = [one.start for one in self.segments]

    @classmethod
    def of_ranges(cls, words: Words, ranges: Words) -> Self:
        """Of the words of ranges [start, end), n x 2, ascending, one after the other. Ranges that
        follow each other are one segment."""
        if not len(ranges):
            return cls([])
        cut = np.nonzero(ranges[1:, 0] != ranges[:-1, 1])[0] + 1
        firsts = np.concatenate([[0], cut])
        lasts = np.concatenate([cut, [len(ranges)]]) - 1
        counts = (ranges[:, 1] - ranges[:, 0]).astype(np.int64) // WORD_BYTES
        ends = np.cumsum(counts)
        begins = ends - counts
        return cls(
            [
                Segment(int(ranges[first, 0]), words[begins[first] : ends[last]])
                for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True)
            ]
        )

    @property
    def size_bytes(self) -> int:
        return sum(one.words.nbytes for one in self.segments)

    def ranges(self) -> Words:
        """What is in it: [start, end), n x 2, ascending."""
        found = [(one.start, one.end) for one in self.segments]
        return np.array(found, dtype=np.uint64).reshape(-1, 2)

    def segment_at(self, address: int) -> Segment | None:
        """The segment that has the byte at this address."""
        at = bisect_right(self._starts, address) - 1
        if at < 0 or address >= self.segments[at].end:
            return None
        return self.segments[at]

    def within(self, start: int, end: int) -> Iterator[Segment]:
        """What is in it of [start, end), multiples of 8, by ascending address."""
        for segment in self.segments[max(bisect_right(self._starts, start) - 1, 0) :]:
            if segment.start >= end:
                return
            low, high = max(segment.start, start), min(segment.end, end)
            if low < high:
                first, last = ((at - segment.start) // WORD_BYTES for at in (low, high))
                yield Segment(low, segment.words[first:last])

    def word(self, address: int) -> int:
        """The word at an address that is a multiple of 8; 0 if it is not in the image."""
        segment = self.segment_at(address)
        if segment is None or address % WORD_BYTES:
            return 0
        return int(segment.words[(address - segment.start) // WORD_BYTES])

    def gather(self, addresses: Words) -> Words:
        """The words at these addresses, in any order, multiples of 8; 0 for those that are not in
        the image."""
        found = np.zeros(len(addresses), dtype=np.uint64)
        if not self.segments:
            return found
        starts = np.array(self._starts, dtype=np.uint64)
        owners = np.searchsorted(starts, addresses, side="right") - 1
        # One segment after another: their number may be large.
        order = np.argsort(owners, kind="stable")
        ordered = owners[order]
        begins = np.nonzero(np.diff(ordered, prepend=-1))[0].tolist()
        for begin, end in pairwise([*begins, len(order)]):
            segment = self.segments[int(ordered[begin])]
            rows = order[begin:end]
            at = (addresses[rows] - np.uint64(segment.start)) >> np.uint64(3)
            is_in = at < np.uint64(len(segment.words))
            found[rows[is_in]] = segment.words[at[is_in].astype(np.intp)]
        return found

    def read(self, address: int, size: int) -> bytes:
        """At most `size` bytes, at any address; fewer if what follows is not in the image."""
        parts = []
        while size > 0 and (segment := self.segment_at(address)) is not None:
            offset = address - segment.start
            part = segment.words.view(np.uint8)[offset : offset + size].tobytes()
            parts.append(part)
            address += len(part)
            size -= len(part)
        return b"".join(parts)

    def read_filled(self, address: int, size: int) -> bytes:
        """`size` bytes of anonymous memory: what is not in the image was never used."""
        found, end = bytearray(size), address + size
        for segment in self.segments[max(bisect_right(self._starts, address) - 1, 0) :]:
            if segment.start >= end:
                break
            start, stop = max(address, segment.start), min(end, segment.end)
            if start < stop:
                found[start - address : stop - address] = self.read(start, stop - start)
        return bytes(found)

    def pieces(self) -> Iterator[Segment]:
        """All of it by ascending address, in pieces of at most a MiB."""
        for segment in self.segments:
            for first in range(0, len(segment.words), PIECE_WORDS):
                words = segment.words[first : first + PIECE_WORDS]
                yield Segment(segment.start + first * WORD_BYTES, words)
