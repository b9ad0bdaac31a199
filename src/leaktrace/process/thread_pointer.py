"""Where the kernel keeps the thread pointer (fs) of a thread: the way from the Go runtime's own
stack to the goroutine that it works for begins there (bpf/process/go.bpf.c)."""

from __future__ import annotations

from contextlib import closing

from leaktrace.bpf import support
from leaktrace.bpf.btf import KernelTypes
from leaktrace.errors import EnvironmentUnfitError


def thread_pointer_knobs() -> dict[str, int]:
    """The -D flag that says it; none where the kernel's type information is missing, or on another
    architecture than x86-64."""
    if support.declined("thread_pointer"):
        return {}
    try:
        with closing(KernelTypes()) as types:
            thread = types.member_offset("task_struct", "thread")
            fsbase = types.member_offset("thread_struct", "fsbase")
    except EnvironmentUnfitError:
        return {}
    if thread is None or fsbase is None:
        return {}
    return {"TASK_FSBASE_OFFSET": thread + fsbase}
