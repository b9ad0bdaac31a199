"""The system calls that open and close file descriptors, for the kernel side
(bpf/process/descriptors.bpf.c).

What opens a descriptor in another way isn't seen: a descriptor that io_uring opens, or that an
ioctl, clone(2) or recvmmsg(2) returns elsewhere than as the result.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from leaktrace.abi import process as abi
from leaktrace.abi.process import DescriptorAction as Action
from leaktrace.abi.process import DescriptorCondition as Condition
from leaktrace.arch import x86_64_system_calls
from leaktrace.bpf.maps import Map
from leaktrace.errors import EnvironmentUnfitError
from leaktrace.targets.namespaces import pids_are_global


class Kind(IntEnum):
    """What a descriptor is, by the system call that opened it."""

    UNKNOWN = 0
    DUPLICATE = abi.KIND_OF_ORIGINAL  # of a descriptor that was opened before tracing began
    FILE = 2
    SOCKET = 3
    PIPE = 4
    EPOLL = 5
    EVENTFD = 6
    TIMERFD = 7
    SIGNALFD = 8
    INOTIFY = 9
    FANOTIFY = 10
    MEMFD = 11
    PIDFD = 12
    PERF_EVENT = 13
    BPF = 14
    IO_URING = 15
    USERFAULTFD = 16
    MOUNT = 17
    MESSAGE_QUEUE = 18
    LANDLOCK = 19
    RECEIVED = 20  # from another process, whatever it is

    @property
    def shown(self) -> str:
        """As reports name it."""
        return self.name.lower().replace("_", " ")

    @classmethod
    def of(cls, number: int) -> Kind:
        """The kind that the kernel side has noted."""
        return cls(number) if number in cls._value2member_map_ else cls.UNKNOWN


@dataclass(frozen=True)
class _Call:
    """What one system call does."""

    action: Action
    kind: Kind = Kind.UNKNOWN
    condition: Condition = Condition.ALWAYS
    argument: int = 0  # of the condition, or that of the array; from 1
    values: int = 0


def _opens(kind: Kind) -> _Call:
    return _Call(Action.OPENS, kind)


def _opens_if_equal(kind: Kind, argument: int, one: int, other: int | None = None) -> _Call:
    values = one | (one if other is None else other) << 32
    return _Call(Action.OPENS, kind, Condition.IF_EQUAL, argument, values)


_F_DUPFD, _F_DUPFD_CLOEXEC = 0, 1030
_NO_DESCRIPTOR = 0xFFFFFFFF  # -1: signalfd then makes a new one
# Of bpf(2), include/uapi/linux/bpf.h: BPF_MAP_CREATE, PROG_LOAD, OBJ_GET, PROG_GET_FD_BY_ID,
# MAP_GET_FD_BY_ID, RAW_TRACEPOINT_OPEN, BTF_LOAD, BTF_GET_FD_BY_ID, LINK_CREATE,
# LINK_GET_FD_BY_ID, ENABLE_STATS, ITER_CREATE, TOKEN_CREATE.
_BPF_COMMANDS = sum(1 << one for one in (0, 5, 7, 13, 14, 17, 18, 19, 28, 30, 32, 33, 36))

_CALLS = {
    "open": _opens(Kind.FILE),
    "openat": _opens(Kind.FILE),
    "openat2": _opens(Kind.FILE),
    "creat": _opens(Kind.FILE),
    "open_by_handle_at": _opens(Kind.FILE),
    "socket": _opens(Kind.SOCKET),
    "accept": _opens(Kind.SOCKET),
    "accept4": _opens(Kind.SOCKET),
    "socketpair": _Call(Action.OPENS_TWO, Kind.SOCKET, argument=4),
    "recvmsg": _Call(Action.RECEIVES, Kind.RECEIVED),
    "pidfd_getfd": _opens(Kind.RECEIVED),
    "pipe": _Call(Action.OPENS_TWO, Kind.PIPE, argument=1),
    "pipe2": _Call(Action.OPENS_TWO, Kind.PIPE, argument=1),
    "dup": _opens(Kind.DUPLICATE),
    "dup2": _Call(Action.MOVES, Kind.DUPLICATE),
    "dup3": _Call(Action.MOVES, Kind.DUPLICATE),
    "fcntl": _opens_if_equal(Kind.DUPLICATE, 2, _F_DUPFD, _F_DUPFD_CLOEXEC),
    "epoll_create": _opens(Kind.EPOLL),
    "epoll_create1": _opens(Kind.EPOLL),
    "eventfd": _opens(Kind.EVENTFD),
    "eventfd2": _opens(Kind.EVENTFD),
    "timerfd_create": _opens(Kind.TIMERFD),
    "signalfd": _opens_if_equal(Kind.SIGNALFD, 1, _NO_DESCRIPTOR),
    "signalfd4": _opens_if_equal(Kind.SIGNALFD, 1, _NO_DESCRIPTOR),
    "inotify_init": _opens(Kind.INOTIFY),
    "inotify_init1": _opens(Kind.INOTIFY),
    "fanotify_init": _opens(Kind.FANOTIFY),
    "memfd_create": _opens(Kind.MEMFD),
    "memfd_secret": _opens(Kind.MEMFD),
    "pidfd_open": _opens(Kind.PIDFD),
    "perf_event_open": _opens(Kind.PERF_EVENT),
    "bpf": _Call(Action.OPENS, Kind.BPF, Condition.IF_AMONG, 1, _BPF_COMMANDS),
    "io_uring_setup": _opens(Kind.IO_URING),
    "userfaultfd": _opens(Kind.USERFAULTFD),
    "open_tree": _opens(Kind.MOUNT),
    "open_tree_attr": _opens(Kind.MOUNT),
    "fsopen": _opens(Kind.MOUNT),
    "fsmount": _opens(Kind.MOUNT),
    "fspick": _opens(Kind.MOUNT),
    "mq_open": _opens(Kind.MESSAGE_QUEUE),
    # With flags it returns a version.
    "landlock_create_ruleset": _opens_if_equal(Kind.LANDLOCK, 3, 0),
    "close": _Call(Action.CLOSES),
    "close_range": _Call(Action.CLOSES_ALL),
}


def require_support() -> None:
    """Raise EnvironmentUnfitError where file descriptors can't be traced."""
    machine = os.uname().machine
    if machine != "x86_64":
        raise EnvironmentUnfitError(
            f"--fds is not supported on {machine}: the numbers of its system calls are not known",
            "leave out --fds",
        )
    if not pids_are_global():
        raise EnvironmentUnfitError(
            "--fds can't be used in a pid namespace, where the kernel's process ids are unknown",
            "run leaktrace outside of the container, or leave out --fds",
        )


def encoded() -> Iterator[tuple[int, NDArray[np.void]]]:
    """The numbers of the system calls, with what they do (abi.DESCRIPTOR_CALL)."""
    for name, call in _CALLS.items():
        value = np.zeros(1, dtype=abi.DESCRIPTOR_CALL)
        value["action"], value["kind"] = call.action, call.kind
        value["condition"], value["argument"] = call.condition, call.argument
        value["values"] = call.values
        yield x86_64_system_calls.NUMBERS[name], value


def fill(calls: Map) -> None:
    """Tell the kernel side which system calls to look at."""
    for number, value in encoded():
        calls.update(number, value)
