"""Where the kernel keeps what the BPF program reads of a task, from the kernel's type information
(BTF). Without it, or on a kernel that has other structs, the program does without."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

from leaktrace.bpf import support
from leaktrace.bpf.btf import KernelTypes
from leaktrace.errors import EnvironmentUnfitError

Members = dict[str, tuple[tuple[str, str], ...]]

# By feature (support.declined) and knob: members of structs, whose offsets add up. A feature needs
# all of its knobs.
_FEATURES: dict[str, Members] = {
    # How a process ends: bpf/process/exec_fork_exit.bpf.c.
    "exit_status": {
        "TASK_SIGNAL_OFFSET": (("task_struct", "signal"),),
        "TASK_EXIT_CODE_OFFSET": (("task_struct", "exit_code"),),
        "SIGNAL_FLAGS_OFFSET": (("signal_struct", "flags"),),
        "SIGNAL_EXIT_CODE_OFFSET": (("signal_struct", "group_exit_code"),),
    },
    # Whether a command may be stopped before it exits: bpf/process/exit_stop.bpf.c.
    "exit_stop": {
        "TASK_SIGNAL_OFFSET": (("task_struct", "signal"),),
        "SIGNAL_THREADS_OFFSET": (("signal_struct", "nr_threads"),),
        "TASK_SIGHAND_OFFSET": (("task_struct", "sighand"),),
        "SIGHAND_ACTION_OFFSET": (("sighand_struct", "action"),),
    },
    # Where the program break is: bpf/process/calls.bpf.c.
    "program_break": {
        "TASK_MM_OFFSET": (("task_struct", "mm"),),
        "MM_BRK_OFFSET": (("mm_struct", "brk"),),
    },
    # Whether a debugger has attached to a command.
    "debuggers": {"TASK_PTRACE_OFFSET": (("task_struct", "ptrace"),)},
    # Which process a fork has made.
    "forks": {"TASK_TGID_OFFSET": (("task_struct", "tgid"),)},
    # The thread pointer (fs). The way from the Go runtime's own stack to the goroutine that it
    # works for begins there: bpf/process/go.bpf.c. Only x86-64 has it.
    "thread_pointer": {
        "TASK_FSBASE_OFFSET": (("task_struct", "thread"), ("thread_struct", "fsbase"))
    },
}

OOM_TRACEPOINT = "mark_victim"
_PID, _TASK = 1, 2  # what it says about the victim
_SWITCHES = {"exit_status": "EXIT_STATUS", "exit_stop": "STOP_AT_EXIT"}  # knobs that are 1 or 0


def task_offset_knobs(*, exit_status: bool, exit_stop: bool) -> dict[str, int]:
    """The -D flags that say it, of each feature for which everything is known. `exit_status`:
    whether it has to be read; of a command, wait(2) returns it. `exit_stop`: whether a command is
    to be stopped before it exits."""
    asked = {"exit_status": exit_status, "exit_stop": exit_stop}
    wanted = {
        feature: members
        for feature, members in _FEATURES.items()
        if not support.declined(feature) and asked.get(feature, True)
    }
    try:
        types = KernelTypes()  # takes some 10 ms: once for all
    except EnvironmentUnfitError:
        return {}
    knobs: dict[str, int] = {}
    with closing(types):
        for feature, members in wanted.items():
            offsets = member_offsets(members, types.member_offset)
            if offsets and feature in _SWITCHES:
                knobs[_SWITCHES[feature]] = 1
            knobs |= offsets
        if not support.declined("oom_victim"):
            victim = _oom_victim(types.tracepoint_arguments(OOM_TRACEPOINT))
            if victim != _TASK or knobs.get("TASK_TGID_OFFSET"):
                knobs["OOM_VICTIM"] = victim
    return knobs


def _oom_victim(arguments: tuple[str, ...] | None) -> int:
    """What the tracepoint says about the victim (bpf/process/config.h); 0: it is not known."""
    return {"int": _PID, "task_struct *": _TASK}.get(arguments[0], 0) if arguments else 0


def member_offsets(members: Members, offset_of: Callable[[str, str], int | None]) -> dict[str, int]:
    """The offset for each knob; none if one is unknown."""
    offsets: dict[str, int] = {}
    for knob, path in members.items():
        parts = [offset_of(struct, member) for struct, member in path]
        known = [part for part in parts if part is not None]
        if len(known) < len(parts):
            return {}
        offsets[knob] = sum(known)
    return offsets
