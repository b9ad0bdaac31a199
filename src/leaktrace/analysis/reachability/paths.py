"""The ways that lead from roots to blocks, as the reader sees them: one for all blocks that are
held in the same way.

A path is an owner of roots (a variable, a thread's stack), then one site after the other: those of
the blocks that lead on. A site occurs once in a path: what leads from a list's first block to its
thousandth are blocks of one site, and so they are one step that repeats. So it is with trees, and
where the blocks of two sites alternate.
"""

from __future__ import annotations

from dataclasses import dataclass, field

OTHERS = 0  # the path of blocks whose own one has too many steps, or is one of too many
_NONE = -1
PATH_SHIFT = 32  # of a path, in the keys of those that go on from it; below that is a site
_MOST_STEPS = 16
_MOST_PATHS = 1 << 16
_LEAST, _MOST = -1, 1 << 63


@dataclass(frozen=True)
class PathStep:
    """One step: of the roots, or of blocks. `next_low` and `next_high`: how far into it the words
    are that point to the next step, in bytes; of the last step, those that point to more of its
    own. None: there is no such word."""

    number: int  # of the owner, or of the site
    is_root: bool
    repeats: bool
    next_low: int | None
    next_high: int | None
    to_middle: bool  # some of them point into the middle of the next one


@dataclass
class Paths:
    """All paths, by number. The lists are parallel."""

    parents: list[int] = field(default_factory=lambda: [_NONE])
    numbers: list[int] = field(default_factory=lambda: [_NONE])  # of the owner, or the site
    lows: list[int] = field(default_factory=lambda: [_MOST])  # in the step before
    highs: list[int] = field(default_factory=lambda: [_LEAST])
    to_middle: list[bool] = field(default_factory=lambda: [False])
    repeats: list[bool] = field(default_factory=lambda: [False])
    own_lows: list[int] = field(default_factory=lambda: [_MOST])  # of what leads to its own blocks
    own_highs: list[int] = field(default_factory=lambda: [_LEAST])
    depths: list[int] = field(default_factory=lambda: [0])
    known: dict[int, int] = field(default_factory=dict)  # by path before and site, and owners

    def __len__(self) -> int:
        return len(self.parents)

    def root(self, owner: int) -> int:
        """The path that has only an owner."""
        key = ~owner  # negative, unlike those of `then`
        if key not in self.known:
            self.known[key] = self._new(_NONE, owner, 0)
        return self.known[key]

    def then(self, parent: int, site: int) -> int:
        """The path to blocks of this site that a path before it leads to."""
        if parent == OTHERS:
            return OTHERS
        key = parent << PATH_SHIFT | site
        found = self.known.get(key)
        if found is not None:
            return found
        at = parent
        while self.parents[at] != _NONE:
            if self.numbers[at] == site:
                self.repeats[at] = True
                self.known[key] = at
                return at
            at = self.parents[at]
        if len(self) >= _MOST_PATHS or self.depths[parent] >= _MOST_STEPS:
            return OTHERS
        self.known[key] = self._new(parent, site, self.depths[parent] + 1)
        return self.known[key]

    def widen(self, path: int, parent: int, low: int, high: int, *, to_middle: bool) -> None:
        """Blocks of `path` were found by words in those of `parent`, from `low` to `high`."""
        if path == parent:
            self.own_lows[path] = min(self.own_lows[path], low)
            self.own_highs[path] = max(self.own_highs[path], high)
        elif self.parents[path] == parent:
            self.lows[path] = min(self.lows[path], low)
            self.highs[path] = max(self.highs[path], high)
            self.to_middle[path] |= to_middle

    def steps(self, path: int) -> list[PathStep]:
        """From the owner on; none for OTHERS."""
        found: list[PathStep] = []
        low, high, to_middle = self.own_lows[path], self.own_highs[path], False
        while path not in (OTHERS, _NONE):
            is_known = 0 <= low <= high
            found.append(
                PathStep(
                    number=self.numbers[path],
                    is_root=self.parents[path] == _NONE,
                    repeats=self.repeats[path],
                    next_low=low if is_known else None,
                    next_high=high if is_known else None,
                    to_middle=to_middle,
                )
            )
            low, high, to_middle = self.lows[path], self.highs[path], self.to_middle[path]
            path = self.parents[path]
        return found[::-1]

    def _new(self, parent: int, number: int, depth: int) -> int:
        self.parents.append(parent)
        self.numbers.append(number)
        self.lows.append(_MOST)
        self.highs.append(_LEAST)
        self.to_middle.append(False)
        self.repeats.append(False)
        self.own_lows.append(_MOST)
        self.own_highs.append(_LEAST)
        self.depths.append(depth)
        return len(self) - 1
