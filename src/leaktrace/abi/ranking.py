"""What the ranking of processes shares with the kernel side: bpf/ranking/types.h as numpy types and
enums.

Names are those of the C header: a struct's in upper case, a constant's unchanged.
`tests/unit/abi/test_layouts.py` compiles the header and compares every offset and number.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

COMMAND_BYTES = 16
ENDED_COMMANDS = 1024

TOUCHED = np.dtype([("faults", "<u8"), ("executed", "<u8")])
ENDED = np.dtype([("processes", "<u8"), ("faults", "<u8")])


class RankingLossKind(IntEnum):
    """enum loss of the ranking: what can be lost, each with a counter."""

    FAULTS = 0
    COMMANDS = 1


RANKING_LOSS_KINDS = len(RankingLossKind)
