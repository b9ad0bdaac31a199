"""The file descriptors that a process has open, by what /proc says (proc(5))."""

from __future__ import annotations

import os
import re
from pathlib import Path

_PF_EXITING = 0x4  # include/linux/sched.h


def open_descriptors(pid: int) -> frozenset[int] | None:
    """Their numbers; None if they can't be read, or the process is about to end: it has closed some
    of them then, and is not seen to."""
    try:
        found = frozenset(map(int, os.listdir(f"/proc/{pid}/fd")))  # noqa: PTH208 (faster)
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (OSError, ValueError):
        return None
    flags = int(stat.rpartition(")")[2].split()[6])
    return None if flags & _PF_EXITING else found


def target_of(pid: int, descriptor: int) -> str | None:
    """What a descriptor leads to: a path, "socket:[1234]", "anon_inode:[eventpoll]"…"""
    try:
        return os.readlink(f"/proc/{pid}/fd/{descriptor}")  # noqa: PTH115 (not a path)
    except OSError:
        return None


def descriptor_limit(pid: int) -> int | None:
    """How many it may have (RLIMIT_NOFILE, the soft limit); None if that is unlimited or not
    known."""
    try:
        limits = Path(f"/proc/{pid}/limits").read_text(errors="replace")
    except OSError:
        return None
    found = re.search(r"^Max open files\s+(\d+)\s", limits, re.M)
    return int(found[1]) if found else None


class OpenFiles:
    """How many file descriptors one process has open, and may have."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.at_start: frozenset[int] | None = None  # of its program, if it was stopped there
        self._at_exit: tuple[frozenset[int] | None, int | None] = (None, None)

    def forget(self) -> None:
        """It has executed another program."""
        self.at_start = None

    def see_start(self) -> None:
        """It is stopped where its program starts."""
        self.at_start = open_descriptors(self._pid)

    def keep(self) -> None:
        """The process is stopped before it exits: this is what there is to say when it has ended.
        May be called by another thread."""
        self._at_exit = (open_descriptors(self._pid), descriptor_limit(self._pid))

    def descriptors(self, *, has_ended: bool) -> frozenset[int] | None:
        """Their numbers, as for `open_descriptors`; of an ended process those at its exit, if they
        were kept."""
        return self._at_exit[0] if has_ended else open_descriptors(self._pid)

    def limit(self, *, has_ended: bool) -> int | None:
        """As for `descriptor_limit`."""
        return self._at_exit[1] if has_ended else descriptor_limit(self._pid)


_ANONYMOUS = {
    "[eventpoll]": "epoll",
    "[eventfd]": "eventfd",
    "[timerfd]": "timerfd",
    "[signalfd]": "signalfd",
    "inotify": "inotify",
    "[fanotify]": "fanotify",
    "[pidfd]": "pidfd",
    "[perf_event]": "perf event",
    "[io_uring]": "io uring",
    "[userfaultfd]": "userfaultfd",
}


def kind_of_target(target: str) -> str | None:
    """What a descriptor is that leads there."""
    if target.startswith("/"):
        return "memfd" if target.startswith("/memfd:") else "file"
    kind, _, rest = target.partition(":")
    if kind in ("socket", "pipe"):
        return kind
    if kind == "anon_inode":
        return "bpf" if rest.startswith("bpf-") else _ANONYMOUS.get(rest)
    return None
