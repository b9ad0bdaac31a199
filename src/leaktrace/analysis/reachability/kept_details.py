"""Where the pointers to blocks are: kept only if it is asked who holds the blocks.

Of a pointer between blocks, its place in the block that it is in, and how far into the other one it
leads: eight bytes. Of roots, their addresses and words: for each block the first one of each rank,
exact or not, which is at most six of 22 bytes each, and usually one. And words that lead near
blocks, but to none that is known: it may have come since. These are 16 bytes each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]

WORD_SHIFT = np.uint64(3)
FAR = np.uint32((1 << 32) - 1)  # a place beyond 32 GiB in a block
_MOST_UNRESOLVED = 1 << 22  # words in memory that has no name: 64 MiB


class RootRank(IntEnum):
    """Which roots say the most about who holds a block; the best is first. A stack has what a call
    works with at the moment, and also what earlier calls have left. What has no record may be free
    memory."""

    VARIABLE = 0  # data of the program and its libraries, also thread-local
    THREAD = 1  # stacks, registers
    OTHER = 2  # memory without a record: of malloc, mapped, shared


@dataclass(frozen=True)
class KeptRoots:
    """Words outside of blocks that point to blocks."""

    addresses: NDArray[np.uint64]
    targets: NDArray[np.int32]
    ranks: NDArray[np.uint8]  # RootRank
    is_exact: NDArray[np.bool_]
    words: Words


@dataclass
class Details:
    """Collects them."""

    block_count: int
    rank_of: Callable[[NDArray[np.uint64]], NDArray[np.uint8]]
    """The ranks of addresses."""
    keeps_unresolved: bool = True
    left_out_words: int = field(init=False, default=0)
    """Words that lead near blocks, but to none, and were too many to be kept."""
    _seen: NDArray[np.uint8] = field(init=False)  # by block: a bit for each rank, exact or not
    _roots: list[KeptRoots] = field(init=False, default_factory=list)
    _places: list[NDArray[np.uint32]] = field(init=False, default_factory=list)
    _insides: list[NDArray[np.uint32]] = field(init=False, default_factory=list)
    _unresolved: list[tuple[Words, Words]] = field(init=False, default_factory=list)
    _unnamed: int = field(init=False, default=0)  # how many of these are in memory without a name

    def __post_init__(self) -> None:
        self._seen = np.zeros(self.block_count, dtype=np.uint8)

    def add_roots(
        self,
        addresses: NDArray[np.uint64],
        targets: NDArray[np.intp],
        is_exact: NDArray[np.bool_],
        words: Words,
    ) -> None:
        """Words outside of blocks, and the blocks they point to."""
        if not len(addresses):
            return
        ranks = self.rank_of(addresses)
        kinds = 2 * ranks + ~is_exact
        bits = np.left_shift(np.uint8(1), kinds)
        rows = np.nonzero(self._seen[targets] & bits == 0)[0]
        if not len(rows):
            return
        # Of several for the same block, the first one.
        _, first = np.unique(targets[rows] << 3 | kinds[rows], return_index=True)
        rows = rows[np.sort(first)]
        np.bitwise_or.at(self._seen, targets[rows], bits[rows])
        self._roots.append(
            KeptRoots(
                addresses[rows],
                targets[rows].astype(np.int32),
                ranks[rows],
                is_exact[rows],
                words[rows],
            )
        )

    def add_unresolved(self, addresses: Words, words: Words) -> None:
        """Words that lead to no known block, and where they are."""
        if not self.keeps_unresolved or not len(addresses):
            return
        rows = np.nonzero(self.rank_of(addresses) != RootRank.OTHER)[0]
        if self._unnamed < _MOST_UNRESOLVED:
            self._unnamed += len(addresses) - len(rows)
            rows = np.arange(len(addresses))
        self.left_out_words += len(addresses) - len(rows)
        self._unresolved.append((addresses[rows], words[rows]))

    def unresolved(self) -> tuple[Words, Words]:
        """All that were kept."""
        empty = np.empty(0, dtype=np.uint64)
        addresses = np.concatenate([empty, *(one for one, _ in self._unresolved)])
        return addresses, np.concatenate([empty, *(words for _, words in self._unresolved)])

    def add_offsets(self, offsets: Words, insides: Words) -> None:
        """How far into their blocks the next pointers between blocks are, and how far into the
        others they lead, in bytes."""
        self._places.append(np.minimum(offsets >> WORD_SHIFT, FAR).astype(np.uint32))
        self._insides.append(np.minimum(insides, FAR).astype(np.uint32))

    def roots(self) -> KeptRoots:
        """All that were kept."""
        found = self._roots
        empty = np.empty(0, dtype=np.uint64)
        return KeptRoots(
            np.concatenate([empty, *(one.addresses for one in found)]),
            np.concatenate([empty.astype(np.int32), *(one.targets for one in found)]),
            np.concatenate([empty.astype(np.uint8), *(one.ranks for one in found)]),
            np.concatenate([empty.astype(bool), *(one.is_exact for one in found)]),
            np.concatenate([empty, *(one.words for one in found)]),
        )

    def places(self) -> NDArray[np.uint32]:
        """In words, parallel to `Pointers.between_blocks`. They are handed over."""
        joined = np.concatenate([np.empty(0, dtype=np.uint32), *self._places])
        self._places.clear()
        return joined

    def insides(self) -> NDArray[np.uint32]:
        """In bytes, likewise; FAR: at least so many."""
        joined = np.concatenate([np.empty(0, dtype=np.uint32), *self._insides])
        self._insides.clear()
        return joined
