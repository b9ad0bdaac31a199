"""Attach programs to probes: uprobe links, perf events, raw tracepoints.

File descriptors hold everything here: the kernel removes a probe when its descriptor is closed.
Sources: bpf(2), perf_event_open(2), include/uapi/linux/bpf.h and perf_event.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import struct
from collections.abc import Sequence
from enum import StrEnum
from functools import cache
from pathlib import Path

from leaktrace.arch.machines import this_machine
from leaktrace.bpf.probe_calls import (
    ATTACH_UPROBE_MULTI,
    PERF_ATTR_BYTES,
    attach_to_event,
    link_uprobes,
    open_uprobe_event,
    perf_event_open,
    run_at_event,
)
from leaktrace.bpf.support import declined, load_empty_program
from leaktrace.bpf.syscalls import errno_of, libbpf
from leaktrace.errors import EnvironmentUnfitError, system_error

_PERF_TYPE_SOFTWARE = 1
_PERF_COUNT_SW_PAGE_FAULTS = 2
_PERF_INHERIT = 1 << 1  # bits of perf_event_attr
_PERF_INHERIT_THREAD = 1 << 35
_KPROBE_SOURCE = "/sys/bus/event_source/devices/kprobe"


class UprobeLinks(StrEnum):
    """How probes are attached; in the order in which they are preferred."""

    TOGETHER = "together"  # many probes per link, all at entries or all at returns
    EVENTS = "events"  # one perf event per probe

    @property
    def attach_type(self) -> int:
        """The attach type that programs are loaded with (enum bpf_attach_type)."""
        match self:
            case UprobeLinks.TOGETHER:
                return ATTACH_UPROBE_MULTI
            case UprobeLinks.EVENTS:
                return 0


def uprobe_links() -> UprobeLinks:
    """The preferred way that this kernel supports."""
    return UprobeLinks.TOGETHER if has_uprobe_multi() else UprobeLinks.EVENTS


@cache
def has_uprobe_multi() -> bool:
    """BPF_TRACE_UPROBE_MULTI links (Linux 6.6) whose pid means a process.

    Before "bpf: fix multi-uprobe PID filtering logic" (Linux 6.10) it meant a single thread. Since
    that commit the kernel rejects pid -1 with EINVAL before it reads the path. With another pid, a
    path that is not a file gives EBADF. Kernels without such links always return EINVAL.
    """
    if declined("uprobe_multi"):
        return False
    try:
        program = load_empty_program(ATTACH_UPROBE_MULTI)
    except OSError:
        return False
    try:
        refusals = [link_uprobes(program, "/", [0], [0], pid=pid) for pid in (0, -1)]
    finally:
        os.close(program)
    return refusals == [-errno.EBADF, -errno.EINVAL]


def attach_uprobes(
    program: int,
    path: str,
    offsets: Sequence[int],
    cookies: Sequence[int],
    *,
    pid: int,
    is_return: bool = False,
) -> int:
    """Make one link for many probes of one object: at entries (or other instructions), or at
    returns. Returns its file descriptor; raises OSError with the kernel's errno."""
    result = link_uprobes(program, path, offsets, cookies, pid=pid, is_return=is_return)
    if result < 0:
        raise system_error(-result, path)
    return result


@cache
def uprobe_event_type() -> tuple[int, int]:
    """The type of the uprobe PMU, and the bit of `config` that makes a return probe.

    Raises EnvironmentUnfitError when the kernel has no uprobes.
    """
    folder = Path("/sys/bus/event_source/devices/uprobe")
    try:
        kind = int((folder / "type").read_text())
        bit = int((folder / "format/retprobe").read_text().strip().removeprefix("config:"))
    except (OSError, ValueError):
        raise EnvironmentUnfitError(
            "this kernel has no uprobes", "it needs CONFIG_UPROBE_EVENTS=y (Linux 4.17 or newer)"
        ) from None
    return kind, 1 << bit


def attach_uprobe_event(
    program: int, path: str, offset: int, cookie: int, *, pid: int, is_return: bool
) -> list[int]:
    """Make one probe as a perf event. Returns the file descriptors that keep it alive.

    Raises OSError with the kernel's errno.
    """
    kind, return_bit = uprobe_event_type()
    config = return_bit if is_return else 0
    return open_uprobe_event(program, path, offset, cookie, kind=kind, config=config, pid=pid)


def return_probes_make_system_calls() -> bool:
    """Whether return probes use uretprobe(2), for which a seccomp filter may kill the process:
    x86-64 from Linux 6.11 to 6.13.

    "seccomp: passthrough uretprobe systemcall without filtering" (6.14) fixes it. Stable updates
    have that fix too, which a version doesn't show.
    """
    machine, release = this_machine(), re.match(r"(\d+)\.(\d+)", os.uname().release)
    if machine is None or not machine.has_uretprobe_call or release is None:
        return False
    return (6, 11) <= (int(release[1]), int(release[2])) < (6, 14)


def has_kprobes() -> bool:
    """Whether the kernel has kprobes as perf events (Linux 4.17, CONFIG_KPROBE_EVENTS)."""
    return not declined("kprobes") and Path(_KPROBE_SOURCE, "type").exists()


def attach_kprobe_event(program: int, function: str, *, is_return: bool) -> list[int]:
    """Probe a kernel function, on all CPUs. Returns the file descriptors that keep the probe
    alive.

    Raises OSError with the kernel's errno: ENOENT, EINVAL or EADDRNOTAVAIL where the function
    can't be probed.
    """
    source = Path(_KPROBE_SOURCE)
    kind = int((source / "type").read_text())
    bit = int((source / "format/retprobe").read_text().strip().removeprefix("config:"))
    name = ctypes.create_string_buffer(function.encode())
    attributes = ctypes.create_string_buffer(PERF_ATTR_BYTES)
    struct.pack_into("<IIQ", attributes, 0, kind, len(attributes), is_return << bit)
    struct.pack_into("<QQ", attributes, 56, ctypes.addressof(name), 0)  # config1, config2
    return attach_to_event(program, attributes, pid=-1, cpu=0, cookie=0, label=function)


def attach_page_faults(program: int, tid: int) -> list[int]:
    """Run a program at each page fault of a thread and of the threads that it starts.

    Returns the file descriptors that keep it alive; raises OSError with the kernel's errno.
    """
    attributes = ctypes.create_string_buffer(PERF_ATTR_BYTES)
    struct.pack_into(
        "<IIQQ", attributes, 0, _PERF_TYPE_SOFTWARE, len(attributes), _PERF_COUNT_SW_PAGE_FAULTS, 1
    )
    event = -errno.EINVAL
    # inherit_thread excludes forked children (Linux 5.13). On older kernels the program ignores
    # them.
    for flags in (_PERF_INHERIT | _PERF_INHERIT_THREAD, _PERF_INHERIT):
        struct.pack_into("<Q", attributes, 40, flags)
        event = perf_event_open(attributes, pid=tid, cpu=-1)
        if event != -errno.EINVAL:
            break
    if event < 0:
        raise system_error(-event)
    return [run_at_event(event, program)]


def attach_all_page_faults(program: int, cpu: int) -> list[int]:
    """Run a program at each page fault on a CPU, of whatever process.

    Returns the file descriptors that keep it alive; raises OSError with the kernel's errno: ENODEV
    for a CPU that is offline.
    """
    attributes = ctypes.create_string_buffer(PERF_ATTR_BYTES)
    struct.pack_into(
        "<IIQQ", attributes, 0, _PERF_TYPE_SOFTWARE, len(attributes), _PERF_COUNT_SW_PAGE_FAULTS, 1
    )
    event = perf_event_open(attributes, pid=-1, cpu=cpu)
    if event < 0:
        raise system_error(-event)
    return [run_at_event(event, program)]


def attach_raw_tracepoint(program: int, name: str) -> int:
    """Run a program at a tracepoint. Returns a file descriptor; raises OSError with the kernel's
    errno."""
    result = int(libbpf().bpf_raw_tracepoint_open(name.encode(), program))
    code = errno_of(result)
    if code:
        raise system_error(code, name)
    return result
