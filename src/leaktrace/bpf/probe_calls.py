"""The system calls that attach probes, and nothing else. The keeper
(process/attach/keeper_child.py), which has to stay small, imports this module too, so it needs only
ctypes and little else of the standard library.

Sources: bpf(2), perf_event_open(2), include/uapi/linux/bpf.h and perf_event.h.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Sequence

from leaktrace.arch.syscall_numbers import BPF, PERF_EVENT_OPEN
from leaktrace.errors import EnvironmentUnfitError, system_error

BPF_LINK_CREATE = 28  # enum bpf_cmd
_ATTACH_PERF_EVENT, ATTACH_UPROBE_MULTI = 41, 48  # enum bpf_attach_type
_UPROBE_MULTI_RETURN = 1
_PERF_FLAG_FD_CLOEXEC = 8
_PERF_EVENT_IOC_ENABLE = 0x2400
_PERF_EVENT_IOC_SET_BPF = 0x40042408
PERF_ATTR_BYTES = 128

_libc = ctypes.CDLL(None, use_errno=True)


def _syscall(number: int, *arguments: object) -> int:
    """Return the result, or minus errno."""
    result = int(_libc.syscall(ctypes.c_long(number), *arguments))
    return -ctypes.get_errno() if result < 0 else result


def _number(numbers: dict[str, int]) -> int:
    machine = os.uname().machine
    if machine not in numbers:
        raise EnvironmentUnfitError(
            f"leaktrace does not know the {machine} architecture",
            f"it runs on {' and '.join(numbers)}",
        )
    return numbers[machine]


def bpf(command: int, attributes: ctypes.Array[ctypes.c_char]) -> int:
    """bpf(2). Returns its result, or minus errno."""
    return _syscall(
        _number(BPF),
        ctypes.c_int(command),
        ctypes.byref(attributes),
        ctypes.c_uint(len(attributes)),
    )


def perf_event_open(attributes: ctypes.Array[ctypes.c_char], *, pid: int, cpu: int) -> int:
    """perf_event_open(2), for an event in its own group. Returns its result, or minus errno."""
    return _syscall(
        _number(PERF_EVENT_OPEN),
        ctypes.byref(attributes),
        ctypes.c_int(pid),
        ctypes.c_int(cpu),
        ctypes.c_int(-1),
        ctypes.c_ulong(_PERF_FLAG_FD_CLOEXEC),
    )


def link_uprobes(
    program: int,
    path: str,
    offsets: Sequence[int],
    cookies: Sequence[int],
    *,
    pid: int,
    is_return: bool = False,
) -> int:
    """Make a uprobe_multi link: probes at many offsets of one file. Returns its file descriptor, or
    minus errno."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    offset_array = (ctypes.c_uint64 * len(offsets))(*offsets)
    cookie_array = (ctypes.c_uint64 * len(cookies))(*cookies)
    attributes = ctypes.create_string_buffer(64)
    struct.pack_into(
        "<IIIIQQQQIIi",
        attributes,
        0,
        program,
        0,
        ATTACH_UPROBE_MULTI,
        0,
        ctypes.addressof(name),
        ctypes.addressof(offset_array),
        0,
        ctypes.addressof(cookie_array),
        len(offsets),
        _UPROBE_MULTI_RETURN if is_return else 0,
        pid,
    )
    return bpf(BPF_LINK_CREATE, attributes)


def open_uprobe_event(
    program: int, path: str, offset: int, cookie: int, *, kind: int, config: int, pid: int
) -> list[int]:
    """Make one probe as a perf event of type `kind`; `config` says whether it is a return probe.

    Returns the file descriptors that keep it alive; raises OSError with the kernel's errno.
    """
    name = ctypes.create_string_buffer(os.fsencode(path))
    attributes = ctypes.create_string_buffer(PERF_ATTR_BYTES)
    struct.pack_into("<IIQ", attributes, 0, kind, len(attributes), config)
    struct.pack_into("<QQ", attributes, 56, ctypes.addressof(name), offset)  # config1, config2
    return attach_to_event(program, attributes, pid=pid, cpu=-1, cookie=cookie, label=path)


def attach_to_event(
    program: int,
    attributes: ctypes.Array[ctypes.c_char],
    *,
    pid: int,
    cpu: int,
    cookie: int,
    label: str,
) -> list[int]:
    """Open a perf event (struct perf_event_attr) that runs a program.

    Returns the file descriptors that keep it alive; raises OSError with the kernel's errno.
    """
    event = perf_event_open(attributes, pid=pid, cpu=cpu)
    if event < 0:
        raise system_error(-event, label)
    link_attributes = ctypes.create_string_buffer(64)
    struct.pack_into("<IIIIQ", link_attributes, 0, program, event, _ATTACH_PERF_EVENT, 0, cookie)
    link = bpf(BPF_LINK_CREATE, link_attributes)
    if link >= 0:
        return [event, link]
    if link != -errno.EINVAL:
        os.close(event)
        raise system_error(-link, label)
    # Before Linux 5.15 perf events get their program by ioctl, without a cookie.
    return [run_at_event(event, program)]


def run_at_event(event: int, program: int) -> int:
    """Make an event run a program. Returns the event; raises OSError and then closes it."""
    try:
        fcntl.ioctl(event, _PERF_EVENT_IOC_SET_BPF, program)
        fcntl.ioctl(event, _PERF_EVENT_IOC_ENABLE, 0)
    except OSError:
        os.close(event)
        raise
    return event
