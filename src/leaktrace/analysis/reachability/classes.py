"""The class of each block, as memcheck says it.

Reachable: exact pointers lead to it from a root. Possibly lost: only with pointers that lead into
the middle of a block, its own or one before it. Definitely lost: nothing points to it. Indirectly
lost: only blocks that are lost do; each belongs to the definitely lost block that leads to it. Of a
cycle, one block counts as definitely lost.

Source: valgrind's manual of memcheck, "Memory leak detection".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leaktrace.analysis.block_classes import BlockClass
from leaktrace.analysis.reachability.edges import by_source, firsts, pointers_of
from leaktrace.analysis.reachability.pointers import Between, Flags, Pointers

_WIDE = 512  # blocks: a front of so many goes by numpy, a narrower one block by block
_NOBODY = -1


@dataclass(frozen=True)
class Classes:
    """The classes of blocks by address (BlockClass), and for each indirectly lost one the index of
    the block that leads to it."""

    classes: NDArray[np.uint8]
    leaders: NDArray[np.int32]  # -1: none


def classify(pointers: Pointers, between: Between | None = None) -> Classes:
    """The classes of all blocks, from all pointers. `between`: those between blocks, if they were
    taken out of `pointers` already; otherwise this does so."""
    count = len(pointers.blocks)
    sources, targets, is_exact = between or pointers.between_blocks()
    del between
    classes = np.full(count, BlockClass.DEFINITE, dtype=np.uint8)
    seen = np.zeros(count, dtype=bool)
    exact = _Graph.of(count, sources[is_exact], targets[is_exact])
    exact.flood(seen, np.nonzero(pointers.roots_exact)[0])
    del exact
    classes[seen] = BlockClass.REACHABLE
    into_middle = targets[~is_exact & seen[sources]]
    pointed = np.zeros(count, dtype=bool)
    graph = _Graph.of(count, sources, targets)
    reached = seen.copy()
    graph.flood(seen, np.concatenate([np.nonzero(pointers.roots_within)[0], into_middle]))
    classes[seen & ~reached] = BlockClass.POSSIBLE
    del reached
    lost = ~seen
    leaders = np.full(count, _NOBODY, dtype=np.int32)
    if lost.any():
        pointed[targets[lost[sources]]] = True
        del sources, targets
        heads = np.nonzero(lost & ~pointed)[0]
        leaders[heads] = heads
        graph.flood(seen, heads, leaders)
        for block in _heads_of_cycles(graph, seen):
            if not seen[block]:
                leaders[block] = block
                graph.flood(seen, np.array([block]), leaders)
        is_led = lost & (leaders != np.arange(count))
        classes[is_led] = BlockClass.INDIRECT
        leaders[~is_led] = _NOBODY
    return Classes(classes, leaders)


def _heads_of_cycles(graph: _Graph, seen: Flags) -> list[int]:
    """The lowest address of each cycle, and of what cycles lead to. A block of this list may lead
    to those behind it, never to one before it: by this order, what a cycle leads to is no head.

    `seen`: all but cycles that nothing else leads to, and what they lead to.
    """
    seen = seen.copy()
    heads = []
    for block in np.nonzero(~seen)[0].tolist():
        if not seen[block]:
            heads.append(block)
            graph.flood(seen, np.array([block]))
    return heads[::-1]


@dataclass(frozen=True)
class _Graph:
    """Pointers between blocks, by source."""

    first: NDArray[np.int64]  # of the targets of each block; one more at the end
    targets: NDArray[np.int32]
    mark: NDArray[np.int32]  # scratch, by block

    @classmethod
    def of(cls, count: int, sources: NDArray[np.int32], targets: NDArray[np.int32]) -> _Graph:
        sources, targets = by_source(sources, targets)
        return cls(firsts(count, sources), targets, np.empty(count, dtype=np.int32))

    def flood(
        self, seen: Flags, front: NDArray[np.intp], leaders: NDArray[np.int32] | None = None
    ) -> None:
        """Mark all that pointers from `front` lead to as seen, without what is already. `leaders`:
        what is seen first from a block gets its leader."""
        if len(front) > 1:
            front = np.unique(front)
        front = front[~seen[front]]
        seen[front] = True
        while len(front):
            step = self._by_block if len(front) < _WIDE else self._by_front
            front = step(seen, front, leaders)

    def _by_front(
        self, seen: Flags, front: NDArray[np.intp], leaders: NDArray[np.int32] | None
    ) -> NDArray[np.intp]:
        """One level. Returns the next one."""
        at, counts = pointers_of(self.first, front)
        found = self.targets[at].astype(np.intp)
        is_new = ~seen[found]
        found = found[is_new]
        seen[found] = True
        # Of several pointers to the same block, one is kept.
        places = np.arange(len(found), dtype=np.int32)
        self.mark[found] = places
        chosen = self.mark[found] == places
        if leaders is not None:
            by = np.repeat(leaders[front], counts)[is_new]
            leaders[found[chosen]] = by[chosen]
        following: NDArray[np.intp] = found[chosen]
        return following

    def _by_block(
        self, seen: Flags, front: NDArray[np.intp], leaders: NDArray[np.int32] | None
    ) -> NDArray[np.intp]:
        """Level by level in plain Python until the front is wide again: a list of a million blocks
        has a million narrow levels."""
        first, targets = self.first.data, self.targets.data
        marks = seen.view(np.uint8).data
        led = None if leaders is None else leaders.data
        narrow: list[int] = front.tolist()
        while narrow and len(narrow) < 2 * _WIDE:
            following = []
            for block in narrow:
                for target in targets[first[block] : first[block + 1]]:
                    if not marks[target]:
                        marks[target] = 1
                        if led is not None:
                            led[target] = led[block]
                        following.append(target)
            narrow = following
        return np.array(narrow, dtype=np.intp)
