"""Where the program break of a process is, as far as it can be seen from outside."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from leaktrace.targets.mappings import Mapping

_HEAP = "[heap]"
_START_BRK = 47 - 3  # field 47 (proc_pid_stat(5)); the one after the name is field 3


def likely_break(pid: int, mappings: Sequence[Mapping]) -> int:
    """The end of the page that the break is in, and exact if a C library has allocated anything: it
    moves its break by pages. 0 if it is not known."""
    ends = [one.end for one in mappings if one.path == _HEAP]
    return max(ends) if ends else start_of_heap(pid)


def start_of_heap(pid: int) -> int:
    """Where the break was at first, and is if the process has no heap; 0 if it is not known."""
    try:
        _, _, fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")
        return int(fields.split()[_START_BRK])
    except (OSError, ValueError, IndexError):
        return 0
