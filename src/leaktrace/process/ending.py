"""How a traced process has ended: its exit status, or the signal that killed it.

Of a command that leaktrace has started wait(2) tells. Of another process nobody does but its
parent, and pidfds only since Linux 6.15, once the parent has reaped it; so a BPF program reads it
where the kernel keeps it (bpf/process/life.bpf.c). Without the kernel's type information it stays
unknown.
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
    """The -D flags with which the BPF program notes how the process ends; none where this kernel
    doesn't tell where it keeps that."""
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
    """From the status of the kernel side's session (struct session, bpf/process/types.h)."""
    if not wait_status & STATUS_IS_KNOWN:
        return Ending()
    return Ending.from_wait_status(wait_status & (STATUS_IS_KNOWN - 1))
