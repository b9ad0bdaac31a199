"""What the process mode shares with the kernel side: bpf/process/types.h as numpy types and enums.

Names are those of the C header: a struct's in upper case, a constant's unchanged.
`tests/unit/abi/test_layouts.py` compiles the header and compares every offset and number.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from leaktrace.abi.common import EVENT, MAX_FRAMES, U32, U64, UNKNOWN_SIZE, EventCode, StackEndCode
from leaktrace.arch.x86_64 import (  # noqa: F401 (the C side has them, too)
    SIGNAL_RBP_OFFSET,
    SIGNAL_RIP_OFFSET,
    SIGNAL_RSP_OFFSET,
)

# These names of `abi/common.py` can be imported from here, too.
__all__ = ["EVENT", "MAX_FRAMES", "U32", "U64", "UNKNOWN_SIZE", "EventCode", "StackEndCode"]

# --- traced processes -----------------------------------------------------------------------------

MAX_SLOTS = 4096
NO_SLOT = 0xFFFFFFFF
COOKIE_SLOT_SHIFT = 32

# The key of a record: address | space << SPACE_SHIFT | slot << SLOT_SHIFT
SPACE_SHIFT = 48
SLOT_SHIFT = 52

PROCESS = np.dtype([("slot", "<u4"), ("follows", "<u2"), ("execs", "<u2")])

# --- records and sites ----------------------------------------------------------------------------

ALLOCATION = np.dtype([("size", "<u8"), ("time_ns", "<u8"), ("stack_id", "<u8")])

SITE = np.dtype(
    [
        ("allocated_bytes", "<u8"),
        ("allocated_count", "<u8"),
        ("freed_bytes", "<u8"),
        ("freed_count", "<u8"),
        ("generation", "<u4"),
        ("end", "u1"),
        ("is_region", "u1"),
        ("owner", "<u2"),
    ]
)

LIFETIME_SITES = 32_768
LIFETIME_WAYS = 8
FIRST_LIFETIME_POWER = 8
LIFETIME_POWERS = 46
LIFETIMES = np.dtype(
    [
        ("stack_id", "<u8"),
        ("counts", "<u4", (LIFETIME_POWERS,)),
        ("watched", "<u4"),
        ("claims", "<u4"),
    ]
)

WATCHES = 16
WATCH_WINDOW_SHIFT = 27
WATCH_WALKS = 64
WATCH_MOST_SHIFT = 24
WATCH = np.dtype([("site", "<u8"), ("since_ns", "<u8"), ("shift", "<u4"), ("walked", "<u4")])
RELEASE = np.dtype([("site", "<u8"), ("stack_id", "<u8")])

UNSEEN_RELEASES = 4096
UNSEEN_RELEASE = np.dtype(
    [
        ("key", "<u8"),
        ("caller", "<u8"),
        ("ip", "<u8"),
        ("generation", "<u4"),
        ("count", "<u4"),
    ]
)

MAX_FILE_MAPPINGS = 4096
FILE_MAPPING = np.dtype([("start", "<u8"), ("end", "<u8")])

# --- sampling (analysis/sampling.py) --------------------------------------------------------------

GAP_COUNT = 65_536
WEIGHT_COUNT = 4_096
WEIGHT_STEP = 256
WEIGHT_UNIT = 65_536
COUNT_UNIT = 1_024

THROTTLE = np.dtype([("rate", "<u8"), ("since_ns", "<u8")])

# --- walks and stacks -----------------------------------------------------------------------------

STACK = np.dtype(
    [
        ("generation", "<u4"),
        ("frame_count", "<u2"),
        ("end", "u1"),
        ("result", "u1"),
        ("view", "<u4"),
        ("since", "<u4"),
        ("epoch", "<u4"),
        ("in_doubt", "<u2"),
        ("slot", "<u2"),
        ("pc", "<u8", (MAX_FRAMES,)),
    ]
)

# For an ip in [start, end), rel = ip - bias is the key to search the object's rows and pages for.
# Its rows are rows[row_lo:row_hi], its pages the page_count + 1 entries from page_lo on. Both are
# empty if nothing is known about the code.
UNWIND_MAPPING = np.dtype(
    [
        ("start", "<u8"),
        ("end", "<u8"),
        ("bias", "<u8"),
        ("row_lo", "<u4"),
        ("row_hi", "<u4"),
        ("page_lo", "<u4"),
        ("page_count", "<u4"),
        ("fingerprint", "<u8"),
    ]
)
MAX_LISTED_MAPPINGS = 4096
GENERATED_CODE = 1  # row_lo of memory without a file, which has no rows
TABLE_TO_COME = 2  # row_lo of an object whose table is still being made

UNWIND_LIST = np.dtype(
    [
        ("place", "<u8"),
        ("generation", "<u8"),
        ("version", "<u8"),
        ("trampoline", "<u8"),
        ("loader", "<u8"),
        ("epoch", "<u4"),
        ("view", "<u4"),
        ("sees_loads", "<u4"),
        ("unused", "<u4"),
    ]
)
UNWIND_LISTS = 9  # of each slot; the first one's `place` is the index of the one in force

# The bits of a row: unwind/rows.py.
ROW_PC_SHIFT = 32
ROW_SAVED_RBP_SHIFT = 24
ROW_FAR_SHIFT = 19
ROW_FAR_MASK = 0x1F
ROW_RULE_SHIFT = 16
ROW_RULE_MASK = 0x7
ROW_OFFSET_MASK = 0xFFFF
# In the place of the CFA offset, and above the rule, of RULE_END:
END_KIND_MASK = 0x7
GO_FIRST_SHIFT = 3
GO_SECOND_SHIFT = 7
GO_WORD_MASK = 0xF
GO_CURG_MASK = 0xFF
GO_FRAME_SHIFT = 11
GO_FRAME_MASK = 0x1F
GO_ENTRY_SHIFT = 19
# Of the Go runtime, as every program's code confirms (unwind/go_switches.py):
GO_G_BELOW_TLS = 8  # below the thread pointer
GO_G_STACK_HI, GO_G_M, GO_G_SCHED_SP = 8, 48, 56  # in struct g
GO_LOAD_CODE, GO_LOAD_MASK, GO_LOAD_BYTES = 0x058B48, 0xC7FFFB, 7  # mov, relative to rip
GO_M_G0 = 0  # in struct m: the goroutine of the thread's own stack
CODE_PAGE_SHIFT = 8


class Rule(IntEnum):
    """enum rule: how the canonical frame address (CFA) is found."""

    RULE_NONE = 0  # not known; the CFA offset is a `NoRule`
    RULE_RSP = 1  # rsp + offset
    RULE_RBP = 2  # rbp + offset
    RULE_PLT = 3  # rsp + 8, plus 8 from a byte of a 16-byte PLT entry on
    RULE_END = 4  # the outermost frame: its return address is undefined. The offset is an `EndOf`
    RULE_RBP_DEREF = 5  # *(rbp + offset): a function that realigned its stack
    RULE_RSP_DEREF = 6  # *(rsp + offset)
    RULE_SIGNAL = 7  # a signal frame: rbp, rsp and rip are in the ucontext at rsp


class SavedRbp(IntEnum):
    """enum saved_rbp: special values of the saved-rbp byte; any other n means "at CFA - 8 * n"."""

    UNCHANGED = 0  # rbp still holds the caller's value
    LOST = 254  # not known: rules of callers that need rbp must not be followed
    AT_RBP = 255  # at *(rbp)


class EndOf(IntEnum):
    """enum end_of: what ends with an outermost frame."""

    STACK = 0
    C_CODE = 1  # its caller is Go, on another stack, which isn't followed
    # A stack, but not the walk, where the row says how the caller's is found (struct of its bits:
    # unwind/rows.py, GoSwitch):
    C_OF_GOROUTINE = 2  # a goroutine is saved, and how deep its stack is
    C_BELOW_SAVED_SP = 3  # the caller's stack pointer is saved
    SYSTEM_STACK = 4  # the goroutine has saved its stack pointer in itself
    CALLBACK = 5  # of a goroutine, which was called by C code on the thread's stack
    # The last two in a library, which loads from a word of its own where the goroutine is:
    SYSTEM_STACK_OF_LIBRARY = 6
    CALLBACK_OF_LIBRARY = 7


class WalkResult(IntEnum):
    """enum walk_result: why a walk ended."""

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
    GENERATED_CODE = 10


# --- functions and points -------------------------------------------------------------------------

PLACE = np.dtype([("kind", "<u2"), ("number", "<u2"), ("value", "<i4")])

POINT = np.dtype(
    [
        ("function", "<u2"),
        ("action", "u1"),
        ("condition", "u1"),
        ("flags", "u1"),
        ("frame_register", "u1"),
        ("shape", "<u2"),
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


class Function(IntEnum):
    """enum function: what is hooked."""

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
    XALLOCX = 18
    START = 19  # not recorded: where a program starts
    EXIT = 20  # not recorded: where it exits
    SHMAT = 21
    SHMDT = 22
    BRK = 23
    DESCRIPTOR = 24  # a system call that returns a file descriptor
    DESCRIPTORS = 25  # one that stores several
    PAIR = 64  # in trace events, the number of the pair is added, as to the next
    PAIR_RELEASE = 96


SHAPE_SIZE_SHIFT = 0
SHAPE_COUNT_SHIFT = 3
SHAPE_OLD_SHIFT = 6
SHAPE_MEMPTR_SHIFT = 9
SHAPE_OUTCOME_SHIFT = 12
SHAPE_ARGUMENT_MASK = 7
COOKIE_SHAPE_SHIFT = 16
COOKIE_SPACE_SHIFT = 48
SPACES = 16

PAIR_CALLS = np.dtype([("other_releases", "<u8"), ("returned_again", "<u8")])


# --- file descriptors -----------------------------------------------------------------------------


class DescriptorAction(IntEnum):
    """enum descriptor_action: what a system call does with file descriptors."""

    NOTHING = 0
    OPENS = 1  # it returns one
    OPENS_TWO = 2  # it stores two in an array
    MOVES = 3  # what it returns may have been open (dup2)
    RECEIVES = 4  # with a message
    CLOSES = 5
    CLOSES_ALL = 6  # a range


class DescriptorCondition(IntEnum):
    """enum descriptor_condition: what an argument must be, so that the call opens one."""

    ALWAYS = 0
    IF_EQUAL = 1  # to the lower or upper half of `values`
    IF_AMONG = 2  # `values` has the bit of this number
    IF_HAS = 3  # one of the bits of `values`


SYSTEM_CALLS = 512
DESCRIPTOR_CALL = np.dtype(
    [
        ("action", "u1"),
        ("kind", "u1"),
        ("condition", "u1"),
        ("argument", "u1"),
        ("unused", "<u4"),
        ("values", "<u8"),
    ]
)

# In the `size` of a record; below is 1.
DESCRIPTOR_KIND_SHIFT = 8
KIND_OF_ORIGINAL = 1  # of a duplicate
MOST_RECEIVED = 16  # by one recvmsg; more are lost

CLOSED_RANGES = 8  # of each slot
CLOSED_RANGE = np.dtype([("time_ns", "<u8"), ("first", "<u4"), ("last", "<u4")])


class Outcome(IntEnum):
    """enum outcome: what a function returns, and what happens to the old block."""

    BLOCK = 0  # the block. NULL: failed, the old one stays unless the size is 0 (realloc)
    STATUS = 1  # 0: the block is at *memptr. Else: failed, the old one stays (posix_memalign)
    IN_PLACE = 2  # the old block, resized. NULL: failed, it stays as it was (mi_expand)
    NEW_SIZE = 3  # what the old block has now. Less than the size: failed (xallocx)
    BLOCK_OR_FREED = 4  # the block. NULL: failed, and the old one is released (reallocf)


# Functions that map memory, as opposed to allocating blocks of a heap.
MAPPING_FUNCTIONS = frozenset({Function.MMAP, Function.MREMAP, Function.SHMAT, Function.BRK})
UNMAPPING_FUNCTIONS = frozenset({Function.MUNMAP, Function.SHMDT})


class PlaceKind(IntEnum):
    """enum place_kind: where a value is at a point."""

    NONE = 0
    REGISTER = 1
    SLOT = 2
    CONSTANT = 3


class Action(IntEnum):
    """enum point_action: what is known at a point inside a function."""

    BEGIN = 1  # the requested size
    END = 2  # the result
    BOTH = 3
    LEAVE = 4  # neither: the result won't be known


# --- the process ----------------------------------------------------------------------------------

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
        ("sent_epoch", "<u4"),
        ("overflow_epoch", "<u4"),
        ("unload_epoch", "<u4"),
        ("marked", "<u4"),
        ("changing", "<u4"),
        ("wait_status", "<u8"),
        ("children", "<u8"),
        ("slot", "<u4"),
        ("use", "<u4"),
        ("oom_ns", "<u8"),
        ("stop", "<u8"),
        ("exit_ns", "<u8"),
        ("program_break", "<u8"),
        ("break_seen", "<u8"),
        ("raised_to", "<u8"),
        ("unseen", "<u8"),
    ]
)

STATUS_IS_KNOWN = 1 << 32
STOP_GENERATION_SHIFT = 1


def stop_at(generation: int, *, is_first_call: bool) -> int:
    """`stop` of SESSION at an exec or a first call."""
    return generation << STOP_GENERATION_SHIFT | is_first_call


FINGERPRINT_WORDS = 128
OBJECT_PATH_BYTES = 512
LOAD_EVENT = np.dtype([("event", EVENT), ("fingerprint", "<u8"), ("path", f"S{OBJECT_PATH_BYTES}")])


class Tally(IntEnum):
    """enum tally: what is counted to compute the cost of tracing."""

    KNOWN_STACKS = 0
    WALKED_STACKS = 1


class LossKind(IntEnum):
    """enum loss: what can be lost, each with a counter. From WALKS on, by `WalkResult`."""

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
    FAR_ADDRESSES = 13
    CHILDREN = 14
    LEFT_CALLS = 15
    BREAKS = 16
    SEGMENTS = 17
    DESCRIPTORS = 18
    CLOSED_RANGES = 19
    UNREAD_FDS = 20
    WALKS = 21


LOSS_COUNTERS = int(LossKind.WALKS) + len(WalkResult)

# Losses of allocations that are in no figure of a report.
ALLOCATION_LOSSES = (
    LossKind.ALLOCATIONS,
    LossKind.SITES,
    LossKind.THREADS,
    LossKind.STALE_CALLS,
    LossKind.MISSED_RETURNS,
    LossKind.UNREAD_RESULTS,
    LossKind.REGION_EVENTS,
    LossKind.FAR_ADDRESSES,
)
