"""Turns words of memory into pointers between blocks.

A word points to a block if it is an address within it: exactly, if that is its start, with up to
three low bits used as a tag. Words that lie in a block are pointers of that block; all others are
roots, and of those only which blocks they point to is kept: two bits per block. So memory is never
held as a whole, and what is kept grows with the pointers between blocks: nine bytes each, and eight
more if it is asked who holds the blocks (kept_details.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from leaktrace.analysis.reachability.kept_details import Details

Words = NDArray[np.uint64]
Flags = NDArray[np.bool_]
# Pointers from one block to another, in no order: sources, targets, and whether they are exact.
Between = tuple[NDArray[np.int32], NDArray[np.int32], Flags]

_TAG_BITS = np.uint64(7)
_CHUNK_UNIT, _CHUNK_HEAD = np.uint64(16), np.uint64(8)  # of glibc's malloc
_NUMBER_BYTES = np.uint64(8)  # the number of objects before those of `new T[n]`
_GAP_BYTES = 64 << 20  # between blocks: heaps are terabytes apart, and words between don't count
_GRAIN_SHIFT = 6  # 64 bytes, or a power of two more
_MOST_GRAINS = 1 << 25  # a byte each
_AT_ONCE = 1 << 16  # words, so that a position fits into the 16 bits that an address leaves
_ADDRESS_BITS = np.uint64(48)  # of user memory, without five-level page tables
_POSITION_BITS = np.uint64(16)
_POSITION = np.uint64((1 << 16) - 1)


class Blocks:
    """Blocks by ascending address. They don't overlap."""

    def __init__(self, starts: Words, sizes: Words) -> None:
        """In any order; `order` is that by address. A block of no bytes has one."""
        self.order = np.argsort(starts, kind="stable")
        self.starts: Words = np.ascontiguousarray(starts[self.order], dtype=np.uint64)
        self.ends: Words = self.starts + np.maximum(sizes[self.order], np.uint64(1))
        # `new T[0]` of C++, of a class with a destructor, allocates room for the number of objects
        # alone, and what the program keeps is the address behind that: of the first object.
        is_number = self.ends - self.starts == _NUMBER_BYTES
        self.pointed_ends: Words = self.ends + is_number.astype(np.uint64)
        np.minimum(self.pointed_ends[:-1], self.starts[1:], out=self.pointed_ends[:-1])

    def __len__(self) -> int:
        return len(self.starts)

    def find(self, addresses: Words) -> NDArray[np.intp]:
        """The block that each address is in, -1 for none."""
        return self._before(self.ends, addresses)

    def find_pointed(self, words: Words) -> NDArray[np.intp]:
        """The block that each word points to, -1 for none."""
        return self._before(self.pointed_ends, words)

    def _before(self, ends: Words, addresses: Words) -> NDArray[np.intp]:
        if not len(self):
            return np.full(len(addresses), -1)
        found = np.searchsorted(self.starts, addresses, side="right") - 1
        is_in = (found >= 0) & (addresses < ends[found])
        return np.where(is_in, found, -1)

    def spans(self) -> list[tuple[int, int]]:
        """A few ranges [low, high) that have all blocks in them."""
        if not len(self):
            return []
        ends = self.pointed_ends
        cut = np.nonzero(self.starts[1:] - ends[:-1] > np.uint64(_GAP_BYTES))[0]
        lows = self.starts[np.concatenate([[0], cut + 1])].tolist()
        highs = ends[np.concatenate([cut, [len(self) - 1]])].tolist()
        return list(zip(lows, highs, strict=True))


class SomeWords(Protocol):
    """A piece of memory."""

    @property
    def words(self) -> Words: ...

    def addresses(self, indices: NDArray[np.intp]) -> Words:
        """Where these words are."""


class Candidates:
    """Picks the words that may point to a block."""

    def __init__(
        self, blocks: Blocks, most_words: int, *, are_few: bool = False, more_bytes: int = 0
    ) -> None:
        """`most_words`: of one call of `pick`; `are_few`: the blocks are a small part of the memory
        around them, so that it is worth to ask first which grains of it have any; `more_bytes`:
        how far behind them others may be."""
        spans = _widened(blocks.spans(), more_bytes)
        self._spans = [(np.uint64(low), np.uint64(high - low)) for low, high in spans]
        self._offsets = np.empty(most_words, dtype=np.uint64)
        self._is_one, self._is_any = np.empty((2, most_words), dtype=bool)
        self._grains: list[Flags] = []
        self._shift = _GRAIN_SHIFT
        if are_few:
            total = sum(high - low for low, high in spans)
            self._shift = max(_GRAIN_SHIFT, (total // _MOST_GRAINS).bit_length())
            self._grains = [_grains_with_blocks(blocks, *span, self._shift) for span in spans]

    def pick(self, words: Words) -> NDArray[np.intp]:
        """Their indices, ascending. A word costs some nanoseconds."""
        count = len(words)
        offsets, is_one, is_any = (
            self._offsets[:count],
            self._is_one[:count],
            self._is_any[:count],
        )
        is_any[:] = False
        for number, (low, length) in enumerate(self._spans):
            np.subtract(words, low, out=offsets)  # modulo 2**64: lower words become large
            np.less(offsets, length, out=is_one)
            if self._grains:
                found = np.nonzero(is_one)[0]
                grains = (offsets[found] >> np.uint64(self._shift)).astype(np.intp)
                is_any[found[self._grains[number][grains]]] = True
            else:
                np.logical_or(is_any, is_one, out=is_any)
        return np.nonzero(is_any)[0]


def _widened(spans: list[tuple[int, int]], more_bytes: int) -> list[tuple[int, int]]:
    """Ranges that are longer, and still don't overlap."""
    limits = [*[low for low, _ in spans[1:]], 1 << 64][: len(spans)]
    return [
        (low, min(high + more_bytes, limit))
        for (low, high), limit in zip(spans, limits, strict=True)
    ]


def _grains_with_blocks(blocks: Blocks, low: int, high: int, shift: int) -> Flags:
    """Of the grains of 2**shift bytes from `low` to `high`: which have a part of a block."""
    is_in = (blocks.starts >= np.uint64(low)) & (blocks.starts < np.uint64(high))
    first = ((blocks.starts[is_in] - np.uint64(low)) >> np.uint64(shift)).astype(np.intp)
    last = ((blocks.pointed_ends[is_in] - np.uint64(low + 1)) >> np.uint64(shift)).astype(np.intp)
    grains = np.zeros(((high - low) >> shift) + 1, dtype=bool)
    counts = last - first + 1
    before = np.cumsum(counts) - counts
    grains[np.arange(counts.sum()) + np.repeat(first - before, counts)] = True
    return grains


@dataclass
class Pointers:
    """Who points to the blocks, collected word by word."""

    blocks: Blocks
    dead: Words = field(default_factory=lambda: np.empty((0, 2), dtype=np.uint64))
    """Ranges [start, end), sorted and disjoint, whose words are no roots: unused parts of stacks,
    memory that the allocator has free."""
    owned: Words = field(default_factory=lambda: np.empty((0, 2), dtype=np.uint64))
    """Ranges that have nothing but these blocks and free memory in them: words outside of blocks
    are no roots there. Blocks are a little larger there than they were asked for."""
    details: Details | None = field(default=None, kw_only=True)
    """Where the pointers are, if that is asked."""
    roots_exact: Flags = field(init=False)
    roots_within: Flags = field(init=False)
    _usable_ends: Words = field(init=False)
    _sources: list[NDArray[np.int32]] = field(init=False, default_factory=list)
    _targets: list[NDArray[np.int32]] = field(init=False, default_factory=list)
    _exact: list[Flags] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.roots_exact = np.zeros(len(self.blocks), dtype=bool)
        self.roots_within = np.zeros(len(self.blocks), dtype=bool)
        starts, ends = self.blocks.starts, self.blocks.ends
        if not len(self.owned):
            self._usable_ends = ends
            return
        chunks = (ends - starts + _CHUNK_HEAD + _CHUNK_UNIT - np.uint64(1)) & ~(
            _CHUNK_UNIT - np.uint64(1)
        )
        chunks = np.maximum(chunks, np.uint64(2) * _CHUNK_UNIT)
        self._usable_ends = starts + chunks - _CHUNK_HEAD

    def add(self, addresses: Words, words: Words) -> None:
        """Words of memory and where they are, by ascending address."""
        for first in range(0, len(words), _AT_ONCE):
            piece = slice(first, first + _AT_ONCE)
            self._add(addresses[piece], words[piece])

    def add_pieces(self, pieces: Iterable[SomeWords], candidates: Candidates) -> None:
        """All words of some memory."""
        for piece in pieces:
            chosen = candidates.pick(piece.words)
            if len(chosen):
                self.add(piece.addresses(chosen), piece.words[chosen])

    def add_roots(self, words: Words, places: Words | None = None) -> None:
        """Words that are not in memory: registers. `places`: what stands for their addresses."""
        found = self.blocks.find_pointed(words)
        is_in = found >= 0
        outside = words[~is_in]
        found, words = found[is_in], words[is_in]
        is_exact = words & ~_TAG_BITS == self.blocks.starts[found]
        self.roots_exact[found[is_exact]] = True
        self.roots_within[found[~is_exact]] = True
        if self.details is not None and places is not None:
            self.details.add_roots(places[is_in], found, is_exact, words)
            self.details.add_unresolved(places[~is_in], outside)

    def between_blocks(self) -> Between:
        """The pointers from one block to another. They are handed over: this has none left."""
        empty = np.empty(0, dtype=np.int32)
        joined = []
        for parts in (self._sources, self._targets):
            joined.append(np.concatenate([empty, *parts]))
            parts.clear()
        exact = np.concatenate([np.empty(0, dtype=bool), *self._exact])
        self._exact.clear()
        return joined[0], joined[1], exact

    def among(self, chosen: Flags, between: Between) -> tuple[Pointers, Between]:
        """The same as if only some of the blocks were known: what points to them from others is a
        root. `between`: those that were handed over."""
        sources, targets, is_exact = between
        some = Blocks(self.blocks.starts[chosen], (self.blocks.ends - self.blocks.starts)[chosen])
        pointers = Pointers(some, self.dead)
        is_wanted = chosen[targets]
        is_root = is_wanted & ~chosen[sources]
        for flags, roots, row in (
            (self.roots_exact, pointers.roots_exact, is_exact),
            (self.roots_within, pointers.roots_within, ~is_exact),
        ):
            all_roots = flags.copy()
            all_roots[targets[is_root & row]] = True
            roots[:] = all_roots[chosen]
        is_between = is_wanted & chosen[sources]
        number = (np.cumsum(chosen) - 1).astype(np.int32)
        kept = number[sources[is_between]], number[targets[is_between]], is_exact[is_between]
        return pointers, kept

    def _add(self, addresses: Words, words: Words) -> None:
        if len(self.dead):
            is_alive = ~within(self.dead, addresses)
            addresses, words = addresses[is_alive], words[is_alive]
        targets = self._targets_of(words)
        if self.details is not None:
            self.details.add_unresolved(addresses[targets < 0], words[targets < 0])
        found = np.nonzero(targets >= 0)[0]
        if not len(found):
            return
        targets, words, addresses = targets[found], words[found], addresses[found]
        is_exact = words & ~_TAG_BITS == self.blocks.starts[targets]
        sources = self._sources_of(addresses)
        is_root = sources < 0
        if len(self.owned):
            is_root &= ~within(self.owned, addresses)
        self.roots_exact[targets[is_root & is_exact]] = True
        self.roots_within[targets[is_root & ~is_exact]] = True
        if self.details is not None:
            self.details.add_roots(
                addresses[is_root], targets[is_root], is_exact[is_root], words[is_root]
            )
        is_between = (sources >= 0) & (sources != targets)
        if len(self.owned):
            # Usually that unit is the next chunk, whose pointers lead to headers of others.
            is_between &= is_exact | (addresses < self._usable_ends[sources])
        # The same pointer again and again, one after the other, is one.
        is_between[1:] &= (
            (sources[1:] != sources[:-1])
            | (targets[1:] != targets[:-1])
            | (is_exact[1:] != is_exact[:-1])
            | ~is_between[:-1]
        )
        self._sources.append(sources[is_between].astype(np.int32))
        self._targets.append(targets[is_between].astype(np.int32))
        self._exact.append(is_exact[is_between])
        if self.details is not None:
            starts = self.blocks.starts
            self.details.add_offsets(
                addresses[is_between] - starts[sources[is_between]],
                words[is_between] - starts[targets[is_between]],
            )

    def _sources_of(self, addresses: Words) -> NDArray[np.intp]:
        """The block that each word is in, -1 for none."""
        if not len(self.owned):
            return self.blocks.find(addresses)
        # A program may use all that malloc_usable_size(3) says. A chunk is one unit larger if what
        # would be left of the one that it was taken from is no chunk.
        before = np.searchsorted(self.blocks.starts, addresses, side="right") - 1
        is_in = (before >= 0) & (addresses < self._usable_ends[before] + _CHUNK_UNIT)
        return np.where(is_in, before, -1)

    def _targets_of(self, words: Words) -> NDArray[np.int64]:
        """The block that each word points to, -1 for none.

        Looking up a million starts in random order takes 280 ns each, in ascending order 30. So the
        words are sorted first, each packed into one number with its position.
        """
        is_address = words >> _ADDRESS_BITS == 0
        positions = np.arange(len(words), dtype=np.uint64)
        packed = np.sort((words << _POSITION_BITS | positions)[is_address])
        ascending = packed >> _POSITION_BITS
        found = self.blocks.find_pointed(ascending)
        is_in = found >= 0
        targets = np.full(len(words), -1, dtype=np.int64)
        targets[(packed[is_in] & _POSITION).astype(np.intp)] = found[is_in]
        return targets


def within(ranges: Words, addresses: Words) -> Flags:
    """Which addresses are in one of the ranges [start, end), which are sorted and disjoint."""
    if not len(ranges):
        return np.zeros(len(addresses), dtype=bool)
    at = np.searchsorted(ranges[:, 0], addresses, side="right") - 1
    is_in: Flags = (at >= 0) & (addresses < ranges[at, 1])
    return is_in


def ranges_of(pairs: Iterable[tuple[int, int]]) -> Words:
    """Ranges [start, end) as an array, n x 2."""
    return np.array(list(pairs), dtype=np.uint64).reshape(-1, 2)


def disjoint(ranges: Words) -> Words:
    """The same memory, ascending and disjoint."""
    ranges = ranges[np.argsort(ranges[:, 0], kind="stable")]
    highest = np.maximum.accumulate(np.concatenate([[np.uint64(0)], ranges[:-1, 1]]))
    ranges = ranges.copy()
    ranges[:, 0] = np.maximum(ranges[:, 0], highest[: len(ranges)])
    chosen: Words = ranges[ranges[:, 0] < ranges[:, 1]]
    return chosen
