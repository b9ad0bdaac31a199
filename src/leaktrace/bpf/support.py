"""What the running kernel supports. Each probe tries the feature; none looks at a version."""

from __future__ import annotations

import os
import struct
from functools import cache
from pathlib import Path

from leaktrace.bpf.syscalls import (
    MAP_TYPE_RINGBUF,
    PROG_TYPE_KPROBE,
    PROG_TYPE_PERF_EVENT,
    libbpf,
    load_program,
)

# enum bpf_func_id
_FUNC_GET_ATTACH_COOKIE = 174
_FUNC_TASK_PT_REGS = 175

_MINIMAL_PROGRAM = struct.pack("<BBhiBBhi", 0xB7, 0, 0, 0, 0x95, 0, 0, 0)  # r0 = 0; exit


def declined(feature: str) -> bool:
    """Whether the environment variable LEAKTRACE_WITHOUT (names separated by commas) rules out a
    feature.

    With it, tests run code that otherwise only older kernels need.
    """
    return feature in os.environ.get("LEAKTRACE_WITHOUT", "").split(",")


def has_ring_buffer() -> bool:
    """BPF_MAP_TYPE_RINGBUF (Linux 5.8)."""
    if declined("ring_buffer"):
        return False
    return int(libbpf().libbpf_probe_bpf_map_type(MAP_TYPE_RINGBUF, None)) == 1


def has_attach_cookie() -> bool:
    """bpf_get_attach_cookie in uprobe programs (Linux 5.15)."""
    return _has_helper(PROG_TYPE_KPROBE, _FUNC_GET_ATTACH_COOKIE)


def has_task_pt_regs() -> bool:
    """bpf_task_pt_regs in perf event programs (Linux 5.15)."""
    return _has_helper(PROG_TYPE_PERF_EVENT, _FUNC_TASK_PT_REGS)


def _has_helper(program_type: int, function: int) -> bool:
    return int(libbpf().libbpf_probe_bpf_helper(program_type, function, None)) == 1


@cache
def allocates_map_memory_on_demand() -> bool:
    """Whether hash maps without preallocation are safe in tracing programs.

    They are since "bpf: Convert hash map to bpf_mem_alloc" (Linux 6.1); the kernel's type
    information names that allocator.
    """
    if declined("on_demand_maps"):
        return False
    try:
        return b"\0bpf_mem_alloc\0" in Path("/sys/kernel/btf/vmlinux").read_bytes()
    except OSError:
        return False


def load_empty_program(attach_type: int = 0) -> int:
    """Load a uprobe program that does nothing, to try a feature or to measure a probe alone.

    `attach_type` is ATTACH_UPROBE_MULTI for uprobe_multi links. Returns its file descriptor;
    raises OSError with the kernel's errno.
    """
    return load_program("empty", PROG_TYPE_KPROBE, _MINIMAL_PROGRAM, attach_type)
