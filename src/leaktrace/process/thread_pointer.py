"""Where the kernel keeps the thread pointer (fs) of a thread: the way from the Go runtime's own
stack to the goroutine that it works for begins there (bpf/process/go.bpf.c)."""

from __future__ import annotations

from leaktrace.bpf import support
from leaktrace.bpf.btf import KernelTypes


def thread_pointer_knobs(types: KernelTypes) -> dict[str, int]:
    """The -D flag that says it; none on another architecture than x86-64."""
    if support.declined("thread_pointer"):
        return {}
    thread = types.member_offset("task_struct", "thread")
    fsbase = types.member_offset("thread_struct", "fsbase")
    if thread is None or fsbase is None:
        return {}
    return {"TASK_FSBASE_OFFSET": thread + fsbase}
