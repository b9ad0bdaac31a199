"""What both modes share with the kernel side: bpf/shared/types.h as numpy types and enums.

Names are those of the C header: a struct's in upper case, a constant's unchanged.
`tests/unit/abi/test_layouts.py` compiles the header and compares every offset and number.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

U64 = np.dtype(np.uint64)
U32 = np.dtype(np.uint32)

MAX_FRAMES = 127

# Multiplicative hashing, see mix() of bpf/shared/helpers.bpf.c.
HASH_MULTIPLIER = 0x9E3779B97F4A7C15
HASH_SHIFT = 29

UNKNOWN_SIZE = (1 << 64) - 1

EVENT = np.dtype(
    [
        ("time_ns", "<u8"),
        ("address", "<u8"),
        ("size", "<u8"),
        ("stack_id", "<u8"),
        ("tid", "<u4"),
        ("generation", "<u4"),
        ("kind", "u1"),
        ("function", "u1"),
        ("slot", "<u2"),
        ("epoch", "<u4"),
    ]
)


class StackEndCode(IntEnum):
    """enum stack_end: how complete a stack is."""

    UNKNOWN = 0
    COMPLETE = 1
    TRUNCATED = 2
    GUESSED = 3
    BROKEN = 4
    GO = 5


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
