"""What only the running kernel can answer, found by trying: system calls without lasting effect."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from dataclasses import dataclass

from leaktrace.bpf import links, support, syscalls
from leaktrace.errors import AS_ROOT, EnvironmentUnfitError, reason
from leaktrace.machine import privileges
from leaktrace.machine.machine import ONLY_LOCALLY, Feature, Machine, State

_BPF_MAP_TYPE_HASH = 1
_EXIT_0 = bytes.fromhex("b700000000000000 9500000000000000")  # r0 = 0; exit


def bpf_errno() -> int:
    """Load the smallest probe program and unload it: 0, or the errno of bpf(2).

    Raises EnvironmentUnfitError without libbpf.
    """
    fd = int(
        syscalls.libbpf().bpf_prog_load(
            syscalls.PROG_TYPE_KPROBE,
            None,
            b"GPL",
            _EXIT_0,
            ctypes.c_size_t(len(_EXIT_0) // 8),
            None,
        )
    )
    if fd < 0:
        return -fd
    os.close(fd)
    return 0


def has_batch_operations() -> bool:
    """BPF_MAP_LOOKUP_BATCH of hash maps (Linux 5.6), tried on an empty one.

    Raises EnvironmentUnfitError without libbpf.
    """
    library = syscalls.libbpf()
    fd = int(library.bpf_map_create(_BPF_MAP_TYPE_HASH, b"leaktrace_try", 8, 8, 1, None))
    if fd < 0:
        return False
    position, key, value = (ctypes.c_uint64() for _ in range(3))
    count = ctypes.c_uint32(1)
    places = [ctypes.byref(place) for place in (position, key, value, count)]
    try:
        result = int(library.bpf_map_lookup_batch(fd, None, *places, None))
    finally:
        os.close(fd)
    return result == -errno.ENOENT  # the end of the map


def has_raw_tracepoints() -> bool:
    """BPF_PROG_TYPE_RAW_TRACEPOINT (Linux 4.17).

    Raises EnvironmentUnfitError without libbpf.
    """
    probe = syscalls.libbpf().libbpf_probe_bpf_prog_type
    return int(probe(syscalls.PROG_TYPE_RAW_TRACEPOINT, None)) == 1


def bpf_system_call(machine: Machine) -> Feature:
    """Whether bpf(2) loads a program."""
    name = "bpf(2)"
    if not machine.is_running:
        return Feature(name, State.UNKNOWN, ONLY_LOCALLY, required=True)
    try:
        code = bpf_errno()
    except EnvironmentUnfitError:
        return Feature(name, State.UNKNOWN, "can't be tested without libbpf", required=True)
    if code == 0:
        return Feature(name, State.OK, "BPF programs can be loaded", required=True)
    refusal = f"BPF programs can't be loaded: {reason(code)}"
    if code not in (errno.EPERM, errno.EACCES):
        advice = "boot a kernel with CONFIG_BPF_SYSCALL and CONFIG_BPF_EVENTS"
    elif privileges.capabilities(machine).state is State.MISSING:
        advice = AS_ROOT
    else:
        advice = "run outside the container, or in one with --privileged"
    return Feature(name, State.MISSING, refusal, advice, required=True)


@dataclass(frozen=True)
class _Trial:
    """A feature of the running kernel, and what its absence means."""

    name: str
    ask: Callable[[], bool]
    present: str
    absent: str

    def __call__(self, machine: Machine) -> Feature:
        if not machine.is_running:
            return Feature(self.name, State.UNKNOWN, ONLY_LOCALLY)
        if bpf_system_call(machine).state is not State.OK:
            return Feature(self.name, State.UNKNOWN, "can't be tested without a working bpf(2)")
        if self.ask():
            return Feature(self.name, State.OK, self.present)
        return Feature(self.name, State.LIMITED, self.absent, "run a newer kernel")


KERNEL_TRIALS = (
    _Trial(
        "uprobe links (multi)",
        links.has_uprobe_multi,
        "all probes of an object are attached in one call",
        "probes are attached and detached one at a time: slow",
    ),
    _Trial(
        "attach cookies",
        support.has_attach_cookie,
        "results are read inside the functions: return addresses are not touched",
        "calls are followed by return probes, which can crash some targets",
    ),
    _Trial(
        "BPF ring buffer",
        support.has_ring_buffer,
        "events arrive in order",
        "perf buffers: events of different CPUs may be out of order",
    ),
    _Trial(
        "batch map operations",
        has_batch_operations,
        "maps are read in bulk",
        "maps are read entry by entry, slowly",
    ),
    _Trial(
        "raw tracepoints",
        has_raw_tracepoints,
        "exec and exit of the target are seen",
        "exec of the target is not seen",
    ),
    _Trial(
        "on-demand map memory",
        support.allocates_map_memory_on_demand,
        "maps take memory as they fill",
        "maps take all their memory at the start: see --max-allocs",
    ),
)
