"""Tells whether a process has executed another program, which leaves its pid and its start time as
they are."""

from __future__ import annotations

from pathlib import Path


def mark_of_program(pid: int) -> bytes:
    """What the kernel has told the program about itself when it was executed (getauxval(3)). Two
    executions of the same program differ, too, as the kernel places its stack and the vDSO anew,
    unless that is switched off (personality(2), ADDR_NO_RANDOMIZE). b"" where it can't be read."""
    try:
        return Path(f"/proc/{pid}/auxv").read_bytes()
    except OSError:
        return b""
