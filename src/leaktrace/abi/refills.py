"""What the sampling of a Go program's allocations shares with the kernel side: bpf/go/types.h as
numpy types and enums.

Names are those of the C header: a struct's in upper case, a constant's unchanged.
`tests/unit/abi/test_layouts.py` compiles the header and compares every offset and number.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

REFILL_FRAMES = 40
THINNED_BY = 16

REFILL_STACK = np.dtype(
    [("end", "<u4"), ("frame_count", "<u4"), ("frames", "<u8", (REFILL_FRAMES,))]
)
REFILL_SITE = np.dtype(
    [
        ("stack_id", "<u8"),
        ("object_bytes", "<u8"),
        ("bytes", "<u8"),
        ("objects", "<u8"),
        ("seen", "<u8"),
    ]
)
REFILL_WINDOW = np.dtype([("second", "<u8"), ("stacks", "<u8")])


class RefillLossKind(IntEnum):
    """enum loss of the sampling: what can be lost, each with a counter."""

    THINNED = 0
    SPANS = 1
    SITES = 2
    SITE_BYTES = 3


REFILL_LOSS_KINDS = len(RefillLossKind)
