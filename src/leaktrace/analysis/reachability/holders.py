"""Who holds each block: the shortest way to it from a root.

Variables come before threads, and threads before memory without a record (RootRank): a block that a
variable leads to is held by that, also if a stack has its address, too. For each of these, exact
pointers alone are followed first, then also those into the middle of blocks. Each time all ways of
one step are gone before any of two, so that what is found is a shortest one.

A step is one to blocks of another site. The last block of a list is as near as its first: otherwise
any stray pointer into the middle of the list would seem to hold the rest of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leaktrace.analysis.reachability.edges import by_source, firsts, pointers_of
from leaktrace.analysis.reachability.kept_details import WORD_SHIFT, KeptRoots, RootRank
from leaktrace.analysis.reachability.paths import PATH_SHIFT, Paths
from leaktrace.analysis.reachability.pointers import Between, Flags

_WIDE = 512  # blocks: a front of so many goes by numpy, a narrower one block by block
_UNKNOWN = -1
Counts = tuple[int, int]  # of blocks: how many, and their bytes


@dataclass(frozen=True)
class Held:
    """The path to each block."""

    of_block: NDArray[np.int32]  # its number in `paths`; -1: nothing leads to the block
    paths: Paths


def count_by_path(of_block: NDArray[np.int32], sizes: NDArray[np.uint64]) -> dict[int, Counts]:
    """Of some blocks, with the number of the path of each: by path how many there are, and their
    bytes."""
    paths, of_path = np.unique(of_block, return_inverse=True)
    counts = np.bincount(of_path, minlength=len(paths))
    total = np.bincount(of_path, weights=sizes.astype(np.float64), minlength=len(paths))
    rows = zip(paths.tolist(), counts.tolist(), total.tolist(), strict=True)
    return {path: (count, round(size)) for path, count, size in rows}


@dataclass(frozen=True)
class _Found:
    """Pointers that may be the first to lead to their blocks: parallel."""

    targets: NDArray[np.intp]
    parents: NDArray[np.int64]  # the paths of those that they are in
    offsets: NDArray[np.int64]  # where in those, in bytes
    is_exact: Flags

    def chosen(self, rows: Flags | NDArray[np.intp]) -> _Found:
        return _Found(
            self.targets[rows], self.parents[rows], self.offsets[rows], self.is_exact[rows]
        )


def find_holders(
    sites: NDArray[np.int32],
    between: Between,
    places: NDArray[np.uint32],
    *,
    roots: KeptRoots,
    owners: NDArray[np.int32],
    root_offsets: NDArray[np.int64],
    own_roots: tuple[Flags, int] | None = None,
    no_site: int = -1,
) -> Held:
    """`sites`: that of each block, as a number; `places`: of the pointers `between` blocks, in
    words; `owners`: what each root is part of, as a number, and `root_offsets` how far into that it
    is, in bytes. `own_roots`: blocks that are roots if nothing leads to them, and their owner;
    `no_site`: that of blocks of which nothing is known: each is a step of its own."""
    search = _Search(sites, between, places, no_site)
    of_owner = {owner: search.paths.root(owner) for owner in np.unique(owners).tolist()}
    parents = np.array([of_owner[owner] for owner in owners.tolist()], dtype=np.int64)
    found = _Found(roots.targets.astype(np.intp), parents, root_offsets, roots.is_exact)
    for rank in RootRank:
        some = found.chosen(roots.ranks == rank)
        search.follow(some.chosen(some.is_exact), only_exact=True)
        search.follow(_joined(some, search.into_middle()), only_exact=False)
    if own_roots is not None:
        search.follow_own(*own_roots)
    return Held(search.of_block, search.paths)


def _joined(one: _Found, other: _Found) -> _Found:
    return _Found(
        np.concatenate([one.targets, other.targets]),
        np.concatenate([one.parents, other.parents]),
        np.concatenate([one.offsets, other.offsets]),
        np.concatenate([one.is_exact, other.is_exact]),
    )


class _Search:
    """Pointers between blocks by source, and what was found so far."""

    def __init__(
        self,
        sites: NDArray[np.int32],
        between: Between,
        places: NDArray[np.uint32],
        no_site: int,
    ) -> None:
        count = len(sites)
        sources, targets, is_exact, places = by_source(*between, places)
        self._sources, self._targets = sources, targets
        self._is_exact, self._places = is_exact, places
        self._first = firsts(count, sources)
        self._sites, self._no_site = sites, no_site
        self._mark = np.empty(count, dtype=np.int32)  # scratch, by block
        self.of_block = np.full(count, _UNKNOWN, dtype=np.int32)
        self.paths = Paths()

    def into_middle(self) -> _Found:
        """Pointers from what was found into the middle of what was not."""
        is_new = ~self._is_exact
        is_new &= self.of_block[self._sources] >= 0
        is_new &= self.of_block[self._targets] < 0
        return self._found(np.nonzero(is_new)[0])

    def follow(self, found: _Found, *, only_exact: bool) -> None:
        """Go all ways from these pointers on."""
        self._go_on(self._take(found), only_exact=only_exact)

    def _go_on(self, front: NDArray[np.intp], *, only_exact: bool) -> None:
        while len(front):
            near = [front]
            while len(near[-1]):
                near.append(self._step(near[-1], only_exact=only_exact, within_site=True))
            front = self._step(np.concatenate(near), only_exact=only_exact, within_site=False)

    def _step(
        self, front: NDArray[np.intp], *, only_exact: bool, within_site: bool
    ) -> NDArray[np.intp]:
        """Follow the pointers of these blocks, or only those to others of the same site. Returns
        the blocks that are found."""
        step = self._by_block if len(front) < _WIDE else self._by_front
        return step(front, only_exact=only_exact, within_site=within_site)

    def follow_own(self, is_own: Flags, owner: int) -> None:
        """Go on from blocks that nothing leads to, and that count as roots themselves."""
        front = np.nonzero(is_own & (self.of_block < 0))[0]
        self.of_block[front] = self.paths.root(owner)
        self._go_on(front, only_exact=True)
        self.follow(self.into_middle(), only_exact=False)

    def _found(self, at: NDArray[np.intp]) -> _Found:
        return _Found(
            self._targets[at].astype(np.intp),
            self.of_block[self._sources[at]].astype(np.int64),
            self._places[at].astype(np.int64) << int(WORD_SHIFT),
            self._is_exact[at],
        )

    def _take(self, found: _Found) -> NDArray[np.intp]:
        """Give their paths to blocks that have none yet: of several pointers to one, the first
        counts. Returns these blocks."""
        found = found.chosen(self.of_block[found.targets] < 0)
        numbers = np.arange(len(found.targets), dtype=np.int32)
        self._mark[found.targets[::-1]] = numbers[::-1]
        found = found.chosen(self._mark[found.targets] == numbers)
        if not len(found.targets):
            return found.targets
        keys = found.parents << PATH_SHIFT | self._sites[found.targets]
        _, first, group = np.unique(keys, return_index=True, return_inverse=True)
        lows = np.full(len(first), np.iinfo(np.int64).max)
        highs = np.full(len(first), -1)
        to_middle = np.zeros(len(first), dtype=bool)
        np.minimum.at(lows, group, found.offsets)
        np.maximum.at(highs, group, found.offsets)
        np.logical_or.at(to_middle, group, ~found.is_exact)
        some = found.chosen(first)
        paths = np.empty(len(first), dtype=np.int32)
        rows = zip(
            some.parents.tolist(),
            self._sites[some.targets].tolist(),
            lows.tolist(),
            highs.tolist(),
            to_middle.tolist(),
            strict=True,
        )
        for number, (parent, site, low, high, is_middle) in enumerate(rows):
            path = self.paths.then(parent, site)
            self.paths.widen(path, parent, low, high, to_middle=is_middle)
            paths[number] = path
        self.of_block[found.targets] = paths[group]
        return found.targets

    def _by_front(
        self, front: NDArray[np.intp], *, only_exact: bool, within_site: bool
    ) -> NDArray[np.intp]:
        """All at once."""
        at, counts = pointers_of(self._first, front)
        if within_site:
            sites = np.repeat(self._sites[front], counts)
            is_near = (sites == self._sites[self._targets[at]]) & (sites != self._no_site)
            at = at[is_near]
        if only_exact:
            at = at[self._is_exact[at]]
        at = at[self.of_block[self._targets[at]] < 0]
        return self._take(self._found(at))

    def _by_block(
        self, front: NDArray[np.intp], *, only_exact: bool, within_site: bool
    ) -> NDArray[np.intp]:
        """In plain Python; within a site, on and on until the front is wide: a list of a million
        blocks has a million narrow ones."""
        first, targets, sites = self._first.data, self._targets.data, self._sites.data
        of_block, places = self.of_block.data, self._places.data
        is_exact = self._is_exact.view(np.uint8).data
        paths, known = self.paths, self.paths.known
        narrow: list[int] = front.tolist()
        found: list[int] = []
        while narrow and len(narrow) < 2 * _WIDE:
            following = []
            for block in narrow:
                parent, site = of_block[block], sites[block]
                if within_site and site == self._no_site:
                    continue
                for at in range(first[block], first[block + 1]):
                    target = targets[at]
                    exact = is_exact[at]
                    if of_block[target] >= 0 or (only_exact and not exact):
                        continue
                    if within_site and sites[target] != site:
                        continue
                    path = known.get(parent << PATH_SHIFT | sites[target])
                    if path is None:
                        path = paths.then(parent, sites[target])
                    offset = places[at] << 3
                    paths.widen(path, parent, offset, offset, to_middle=not exact)
                    of_block[target] = path
                    following.append(target)
            found += following
            narrow = following if within_site else []
        return np.array(found, dtype=np.intp)
