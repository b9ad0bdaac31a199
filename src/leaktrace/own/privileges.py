"""What leaktrace itself is allowed to do."""

from __future__ import annotations

import re
from pathlib import Path

_CAP_KILL = 5  # capabilities(7), include/uapi/linux/capability.h


def may_signal_all() -> bool:
    """Whether it may send signals to the processes of every user (CAP_KILL)."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return found is not None and bool(int(found[1], 16) >> _CAP_KILL & 1)
