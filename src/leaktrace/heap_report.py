"""The values of `leaktrace heap`, and of --heap: what is in the heap of a process at one instant.

`leaktrace.heap` finds it out, and reports print it. Sizes are bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from leaktrace.reach import Holder, LostShare


class GroupKind(StrEnum):
    """What is at the beginning of the blocks of a group."""

    CLASS = "class"  # a pointer to the vtable of a C++ class
    FILE = "file"  # another pointer into a mapped file: a function, a table, a constant
    TEXT = "text"
    BLOCK = "block"  # a pointer to another block
    ZERO = "zero"
    OTHER = "other"


@dataclass(frozen=True)
class Amount:
    """Blocks, and the bytes that they can hold."""

    count: int = 0
    bytes: int = 0

    def since(self, before: Amount) -> Amount:
        """The change since another look."""
        return Amount(self.count - before.count, self.bytes - before.bytes)


@dataclass(frozen=True)
class BlockGroup:
    """Blocks that begin alike, and for some kinds are of one size."""

    kind: GroupKind
    name: str  # of the class, of what is pointed to, the text they begin with; "" if not known
    text: str  # that one of them has elsewhere; "": none was found
    least_bytes: int  # of one block
    most_bytes: int
    amount: Amount
    lost: LostShare
    sample_address: int  # of one block: of a lost one, if there is one
    since_first: Amount | None = None  # None: there was one look
    since_previous: Amount | None = None
    lost_since_first: Amount | None = None  # of the lost blocks, and those that only they lead to
    holders: tuple[Holder, ...] = ()  # the most common first; empty if not asked


@dataclass(frozen=True)
class OlderBlocks:
    """The blocks in the heap of a traced process that have no record: they were allocated before
    the trace began. No stack is known."""

    pid: int
    command: str
    allocator: str = ""
    in_use: Amount | None = None  # None: not known, see `problem`
    lost: LostShare = field(default_factory=LostShare)
    groups: tuple[BlockGroup, ...] = ()  # those with the most bytes
    lost_groups: tuple[BlockGroup, ...] = ()  # by bytes that are lost
    group_count: int = 0
    lost_group_count: int = 0
    # Without a record, but a call was just allocating or freeing them; they are in no other figure.
    unjudged_count: int = 0
    age_s: float = 0.0  # how old all this is
    pause_s: float | None = None  # how long the process was stopped; None: it wasn't
    read_bytes: int = 0
    unread_bytes: int = 0
    took_s: float = 0.0
    may_be_newer: tuple[str, ...] = ()  # why some of them may have been allocated later
    problem: str = ""  # why they are not known


@dataclass(frozen=True)
class FreeMemory:
    """What an arena of the allocator keeps, though no block is there."""

    number: int  # 0: the first one
    is_main: bool
    system_bytes: int  # of the arena, from the kernel
    in_use: Amount
    free_bytes: int
    top_bytes: int  # at its end, from which new blocks are cut
    cached_bytes: int  # in the caches of threads
    trimmable_bytes: int | None  # in memory, and malloc_trim(3) would give it back; None: unknown
    between_bytes: int  # below blocks in use: it can't go back by lowering the top
    largest_bytes: int  # of its free chunks
    last_block: tuple[int, int] | None  # the address and bytes of the highest block below its top


class AccountPart(StrEnum):
    """A part of the memory that is in RAM."""

    BLOCKS = "blocks"
    FREE = "free"
    ALLOCATOR = "allocator"
    ANONYMOUS = "anonymous"
    STACKS = "stacks"
    CODE = "code"
    FILES = "files"
    SHARED_MEMORY = "shared_memory"
    OTHER = "other"


@dataclass(frozen=True)
class Account:
    """What is in RAM, part by part: the parts add up to the total. And what is swapped out."""

    resident_bytes: int
    parts: tuple[tuple[AccountPart, int], ...]
    swapped_bytes: int = 0


@dataclass(frozen=True)
class HeapReport:
    """One look at a heap."""

    time: datetime
    elapsed_s: float  # since the first look
    number: int  # 1 for the first
    final: bool
    reason: str  # why a final report is the last one; "" otherwise
    pid: int  # of a core file: of the process that it was
    command: str
    core: str  # the name of the core file; "" for a process that is alive
    allocator: str
    thread_count: int
    in_use: Amount
    own_bytes: int  # blocks that the allocator has for itself: its caches' tables
    free_bytes: int
    overhead_bytes: int  # headers of blocks, and what the allocator knows of its arenas
    lost: LostShare  # of all blocks
    groups: tuple[BlockGroup, ...]  # by bytes in use; by growth from the second look on
    lost_groups: tuple[BlockGroup, ...]  # by bytes that are lost
    group_count: int
    lost_group_count: int
    arenas: tuple[FreeMemory, ...]  # those that keep the most first
    arena_count: int
    account: Account | None  # None: not known, as in a core file
    pause_s: float | None  # how long the process was stopped; None: a core file
    read_bytes: int
    unread_bytes: int
    took_s: float
    since_first: Amount | None = None
    since_previous: Amount | None = None
    lost_since_first: Amount | None = None
    problems: tuple[str, ...] = ()  # why figures of the heap are refused
    notes: tuple[str, ...] = field(default=())

    @property
    def has_figures(self) -> bool:
        return not self.problems
