"""How a traced process has ended: its exit status, or the signal that killed it.

For a command that leaktrace started, wait(2) returns the status. For any other process, only its
parent gets it, and since Linux 6.15 the owner of a pidfd, once the parent has reaped the process.
So a BPF program reads the status where the kernel keeps it (bpf/process/exec_fork_exit.bpf.c;
task_offsets.py). Without the kernel's type information it is unknown.
"""

from __future__ import annotations

from leaktrace.abi.process import STATUS_IS_KNOWN
from leaktrace.model import Ending


def ending_of(wait_status: int) -> Ending:
    """Decodes the wait status of struct session (bpf/process/types.h)."""
    if not wait_status & STATUS_IS_KNOWN:
        return Ending()
    return Ending.from_wait_status(wait_status & (STATUS_IS_KNOWN - 1))
