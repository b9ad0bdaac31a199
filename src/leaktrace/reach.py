"""What was found out about blocks by reading the memory of the process: how many of them nothing
points to any more (--lost), and what holds the others (--holders)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


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
    heap_is_known: bool = False  # blocks without a record, and what is free: no roots
    problems: tuple[str, ...] = ()  # what is not known, a sentence each
    late_unread_count: int = 0  # with --holders: blocks that came meanwhile, and were not read
    late_unread_bytes: int = 0
    unkept_words: int = 0  # with --holders: that may lead to blocks that came meanwhile


class HolderKind(StrEnum):
    """What one step on the way to a block is. All but BLOCK are roots."""

    VARIABLE = "variable"  # of the program or a library
    DATA = "data"  # of the program or a library: no symbol says which variable
    TLS = "tls"  # thread-local storage
    STACK = "stack"  # of a thread
    REGISTER = "register"  # of a thread
    UNTRACKED = "untracked"  # memory of malloc without a record: from before the trace, or free
    MAPPING = "mapping"  # mapped memory
    SHARED = "shared_memory"
    BLOCK = "block"  # of a site
    GROUP = "group"  # blocks of a heap that begin alike (leaktrace heap)


@dataclass(frozen=True)
class HolderStep:
    """One step on the way from a root to a block."""

    kind: HolderKind
    # Variable, section, mapping; of a thread or a block: the function; of one without a record: its
    # C++ class; of a group: its name.
    name: str | None = None
    module: str | None = None  # path of the program or library, as the target sees it
    module_offset: int | None = None  # where the data begins, as a virtual address of the file
    thread: int | None = None  # id
    thread_name: str | None = None
    code_address: int | None = None  # in the function of a stack frame, until it has a name
    site: str | None = None  # id, of blocks
    # The words in it that point to the next step, or, in the last step, to more of its own blocks,
    # are from `offset` to `last_offset` bytes into it. None: there are none, or it is not known.
    offset: int | None = None
    last_offset: int | None = None
    repeats: bool = False  # blocks of this site lead to more of the same, as in a list or a tree
    to_middle: bool = False  # what points to the next step points into its middle
    group: str | None = None  # what blocks of a group begin with (GroupKind)
    least_bytes: int | None = None  # of one of them
    most_bytes: int | None = None


@dataclass(frozen=True)
class Holder:
    """Blocks of a site, or of a group, that are held in the same way."""

    path: tuple[HolderStep, ...]  # from the root to these blocks; empty: it is not known
    count: int
    bytes: int
    of_count: int = 0  # all of its blocks that something points to, and that were looked at
