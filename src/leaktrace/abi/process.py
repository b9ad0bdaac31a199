"""numpy types and enums that mirror bpf/process/types.h, field by field.

A test compiles the header and compares every offset and number.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

MAX_FRAMES = 127

U64 = np.dtype(np.uint64)
U32 = np.dtype(np.uint32)

ALLOCATION = np.dtype([("size", "<u8"), ("time_ns", "<u8"), ("stack_id", "<u8")])

SITE = np.dtype(
    [
        ("allocated_bytes", "<u8"),
        ("allocated_count", "<u8"),
        ("freed_bytes", "<u8"),
        ("freed_count", "<u8"),
        ("generation", "<u4"),
        ("end", "<u2"),
        ("is_region", "<u2"),
    ]
)

STACK = np.dtype(
    [
        ("generation", "<u4"),
        ("frame_count", "<u2"),
        ("end", "u1"),
        ("result", "u1"),
        ("view", "<u4"),
        ("since", "<u4"),
        ("epoch", "<u4"),
        ("in_doubt", "<u4"),
        ("pc", "<u8", (MAX_FRAMES,)),
    ]
)

SESSION = np.dtype(
    [
        ("generation", "<u4"),
        ("tgid", "<u4"),
        ("announced", "<u4"),
        ("armed", "<u4"),
        ("suspended", "<u8"),
        ("forked_ns", "<u8"),
        ("reported", "<u8"),
        ("reported_ns", "<u8"),
        ("exec_time_ns", "<u8"),
        ("epoch", "<u4"),
        ("told", "<u4"),
        ("crowded", "<u4"),
        ("unloaded", "<u4"),
        ("marked", "<u4"),
        ("changing", "<u4"),
        ("wait_status", "<u8"),
    ]
)

EVENT = np.dtype(
    [
        ("time_ns", "<u8"),
        ("address", "<u8"),
        ("size", "<u8"),
        ("stack_id", "<u8"),
        ("tid", "<u4"),
        ("generation", "<u4"),
        ("kind", "<u2"),
        ("function", "<u2"),
        ("epoch", "<u4"),
    ]
)

PLACE = np.dtype([("kind", "<u2"), ("number", "<u2"), ("value", "<i4")])

POINT = np.dtype(
    [
        ("function", "<u2"),
        ("action", "u1"),
        ("condition", "u1"),
        ("flags", "u1"),
        ("frame_register", "u1"),
        ("unused", "<u2"),
        ("frame_offset", "<i4"),
        ("rbp_offset", "<i4"),
        ("size", PLACE),
        ("count", PLACE),
        ("result", PLACE),
    ]
)

POINT_BY_ARGUMENTS = 1
POINT_MAY_BE_UNOPENED = 2
POINT_MAY_BEGIN_AGAIN = 4
POINT_ALWAYS = 16
RBP_UNCHANGED = 0
RBP_LOST = 1

UNSEEN_RELEASES = 4096
UNSEEN_RELEASE = np.dtype(
    [
        ("address", "<u8"),
        ("caller", "<u8"),
        ("ip", "<u8"),
        ("generation", "<u4"),
        ("count", "<u4"),
    ]
)

FILE_MAPPING = np.dtype([("start", "<u8"), ("end", "<u8")])

THROTTLE = np.dtype([("rate", "<u8"), ("since_ns", "<u8")])

UNWIND_LIST = np.dtype(
    [
        ("place", "<u8"),
        ("generation", "<u8"),
        ("version", "<u8"),
        ("trampoline", "<u8"),
        ("loader", "<u8"),
        ("epoch", "<u4"),
        ("view", "<u4"),
    ]
)

UNWIND_LISTS = 9  # the first says which of the others is in force

UNKNOWN_SIZE = (1 << 64) - 1
STATUS_IS_KNOWN = 1 << 32


class StackEndCode(IntEnum):
    """enum stack_end"""

    UNKNOWN = 0
    COMPLETE = 1
    TRUNCATED = 2
    GUESSED = 3
    BROKEN = 4
    GO = 5


class Function(IntEnum):
    """enum function"""

    NONE = 0
    MALLOC = 1
    CALLOC = 2
    REALLOC = 3
    REALLOCARRAY = 4
    POSIX_MEMALIGN = 5
    ALIGNED_ALLOC = 6
    MEMALIGN = 7
    VALLOC = 8
    PVALLOC = 9
    FREE = 10
    MMAP = 11
    MUNMAP = 12
    MREMAP = 13
    FAULT = 14
    OPERATOR_NEW = 15
    MALLOCX = 16
    RALLOCX = 17


# Functions that map memory, as opposed to allocating blocks of a heap.
MAPPING_FUNCTIONS = frozenset({Function.MMAP, Function.MREMAP})


class PlaceKind(IntEnum):
    """enum place_kind"""

    NONE = 0
    REGISTER = 1
    SLOT = 2
    CONSTANT = 3


class Action(IntEnum):
    """enum point_action: what is known at a point within a function."""

    BEGIN = 1  # the size asked for
    END = 2  # the result
    BOTH = 3


class EventCode(IntEnum):
    """enum event_kind"""

    ALLOCATE = 1
    RELEASE = 2
    FAIL = 3
    REGION_ADD = 4
    REGION_RELEASE = 5
    REGION_RESTORE = 6
    STARTED = 7
    EXEC = 8
    UNKNOWN_CODE = 9
    FORKED = 10
    LOADED = 11


class Tally(IntEnum):
    """enum tally: what is counted for the account of cost."""

    KNOWN_STACKS = 0
    WALKED_STACKS = 1


class LossKind(IntEnum):
    """enum loss"""

    ALLOCATIONS = 0
    ALLOCATION_BYTES = 1
    STACKS = 2
    SITES = 3
    THREADS = 4
    STALE_CALLS = 5
    MISSED_RETURNS = 6
    MISSED_FREES = 7
    EVENTS = 8
    REGION_EVENTS = 9
    UNREAD_RESULTS = 10
    FAILED_STACKS = 11
    GUESSED_STACKS = 12
    WALKS = 13


# Kinds of allocations that are not in the figures at all.
ALLOCATION_LOSSES = (
    LossKind.ALLOCATIONS,
    LossKind.SITES,
    LossKind.THREADS,
    LossKind.STALE_CALLS,
    LossKind.MISSED_RETURNS,
    LossKind.UNREAD_RESULTS,
    LossKind.REGION_EVENTS,
)


class WalkResult(IntEnum):
    """enum walk_result"""

    GOES_ON = 0
    COMPLETE = 1
    NO_MAPPING = 2
    NO_ROW = 3
    NO_RULE = 4
    UNREADABLE = 5
    NOT_UPWARD = 6
    FOREIGN_PROBE = 7
    TOO_DEEP = 8
    GO = 9


LOSS_COUNTERS = int(LossKind.WALKS) + len(WalkResult)
