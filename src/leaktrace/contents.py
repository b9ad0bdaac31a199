"""What is in blocks (--contents): bytes, text, pointers, and what many blocks of a site share."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True)
class Text:
    """A text in a block."""

    offset: int  # from its start, in bytes
    text: str  # printable; "..." at its end if it is longer
    size: int  # of all of it, in bytes
    encoding: str = "utf-8"  # or "utf-16le"


class PointerKind(StrEnum):
    """What a word points to."""

    FUNCTION = "function"  # code
    CLASS = "class"  # the vtable of a C++ class
    DATA = "data"  # of the program or a library
    BLOCK = "block"  # that is tracked
    STACK = "stack"  # of a thread


@dataclass(frozen=True)
class Pointer:
    """A word of a block that is an address."""

    offset: int  # in the block, in bytes
    value: int
    kind: PointerKind
    # Of the function, class or variable; of a block, the C++ class of the object at its start.
    name: str | None = None
    site_id: str | None = None  # of a block
    into_bytes: int = 0  # how far behind the start of that block it points
    is_own: bool = False  # it points into the block that it is in


@dataclass(frozen=True)
class BlockContents:
    """A block that was read."""

    address: int
    size_bytes: int
    age_ns: int
    data: bytes  # its first bytes; fewer than were asked for if a page of it is not in memory
    texts: tuple[Text, ...] = ()
    pointers: tuple[Pointer, ...] = ()
    pid: int | None = None  # None if one process is traced


class SharedKind(StrEnum):
    """What blocks have in common."""

    SIZE = "size"
    ABSENT = "absent"  # they are not in memory
    ZERO = "zero"
    SAME = "same"  # all of what was read
    POINTER = "pointer"
    TEXT = "text"


@dataclass(frozen=True)
class Shared:
    """Something that nine of ten blocks of a site have in common, or more."""

    kind: SharedKind
    count: int
    of_count: int  # blocks that were read
    offset: int = 0  # of the pointer or the text
    size_bytes: int | None = None
    text: str | None = None  # how it begins; None: differently
    pointer: Pointer | None = None  # one of them


@dataclass(frozen=True)
class SiteContents:
    """The oldest blocks of a site."""

    read_count: int
    gone_count: int  # left out: they were freed before they had been read
    shared: tuple[Shared, ...]
    blocks: tuple[BlockContents, ...]  # the oldest of all


@dataclass(frozen=True)
class ContentsInfo:
    """How the blocks of a report were read."""

    problems: tuple[str, ...] = ()  # what could not be read, a sentence each
