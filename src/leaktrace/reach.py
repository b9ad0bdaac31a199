"""What was found out about blocks by reading the memory of the process (--lost): how many of them
nothing points to any more."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LostShare:
    """The blocks of a site that were looked at, by class. The classes are those of memcheck.

    `indirect` blocks are those, of whichever site, that only lost blocks of this site lead to.
    Those of this site that other lost blocks lead to are `led_count`.
    """

    definite_bytes: int = 0  # nothing points to them
    definite_count: int = 0
    indirect_bytes: int = 0
    indirect_count: int = 0
    possible_bytes: int = 0  # only pointers into their middle, or into that of a block before
    possible_count: int = 0
    reachable_bytes: int = 0
    reachable_count: int = 0
    scanned_count: int = 0

    @property
    def led_count(self) -> int:
        """How many blocks of this site only lost blocks point to."""
        own = self.definite_count + self.possible_count + self.reachable_count
        return max(self.scanned_count - own, 0)  # estimates may not add up


@dataclass(frozen=True)
class ReachInfo:
    """One look at the memory of all traced processes, and what became of earlier ones."""

    lost: LostShare  # of all sites together
    called_lost: int  # blocks, in this report and those before
    lost_then_freed: int  # of those: released later, so that it was wrong
    age_s: float = 0.0  # how old the results are
    passes: int = 0
    read_bytes: int = 0  # in the first pass
    unread_bytes: int = 0  # could not be read
    took_s: float = 0.0
    pause_s: float | None = None  # for how long a process was stopped, the longest; None: none was
    problems: tuple[str, ...] = ()  # what is not known, a sentence each
