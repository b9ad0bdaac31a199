"""How a traced process has ended: its exit status, or the signal that killed it.

For a command that leaktrace started, wait(2) returns the status. For any other process, only its
parent gets it, and since Linux 6.15 the owner of a pidfd, once the parent has reaped the process.
So a BPF program reads the status where the kernel keeps it (bpf/process/exec_fork_exit.bpf.c).
Without the kernel's type information it is unknown.
"""

from __future__ import annotations

from leaktrace.abi.process import STATUS_IS_KNOWN
from leaktrace.bpf import support
from leaktrace.bpf.btf import KernelTypes
from leaktrace.errors import EnvironmentUnfitError
from leaktrace.model import Ending

_MEMBERS = {
    "TASK_SIGNAL_OFFSET": ("task_struct", "signal"),
    "TASK_EXIT_CODE_OFFSET": ("task_struct", "exit_code"),
    "SIGNAL_FLAGS_OFFSET": ("signal_struct", "flags"),
    "SIGNAL_EXIT_CODE_OFFSET": ("signal_struct", "group_exit_code"),
}


def exit_status_knobs() -> dict[str, int]:
    """The -D flags that make the BPF program note how the process ends; none where the kernel's
    type information is missing."""
    if support.declined("exit_status"):
        return {}
    try:
        types = KernelTypes()
    except EnvironmentUnfitError:
        return {}
    try:
        offsets = {
            knob: offset
            for knob, (struct, member) in _MEMBERS.items()
            if (offset := types.member_offset(struct, member)) is not None
        }
    finally:
        types.close()
    return {"EXIT_STATUS": 1, **offsets} if len(offsets) == len(_MEMBERS) else {}


def ending_of(wait_status: int) -> Ending:
    """Decodes the wait status of struct session (bpf/process/types.h)."""
    if not wait_status & STATUS_IS_KNOWN:
        return Ending()
    return Ending.from_wait_status(wait_status & (STATUS_IS_KNOWN - 1))
