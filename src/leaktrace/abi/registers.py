"""What the reading of registers shares with the kernel side: bpf/registers/types.h as numpy types.

Names are those of the C header: a struct's in upper case, a constant's unchanged.
`tests/unit/abi/test_layouts.py` compiles the header and compares every offset and number.
"""

from __future__ import annotations

import numpy as np

SAVED_REGISTERS = 21

SAVED_THREAD = np.dtype(
    [
        ("tid", "<u4"),
        ("tgid", "<u4"),
        ("is_running", "<u4"),
        ("padding", "<u4"),
        ("fs_base", "<u8"),
        ("registers", "<u8", (SAVED_REGISTERS,)),
    ]
)
