"""What an attacker may put in the place of a file that leaktrace opens."""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

TERABYTE = 1 << 40
_IN_OPEN, _IN_NONBLOCK = 0x20, 0o4000  # inotify(7)
_HANG_S = 60

_HOLD_A_LEASE = """
import fcntl, os, signal, sys
signal.signal(signal.SIGIO, signal.SIG_IGN)
file = os.open(sys.argv[1], os.O_RDWR)
fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print("ready", flush=True)
sys.stdin.read()
"""


def _socket(path: Path) -> None:
    os.mknod(path, 0o666 | stat.S_IFSOCK)


def _sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, TERABYTE)


def _device(path: Path) -> None:
    os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 5))  # as /dev/zero: it has no end


def _link_to_fifo(path: Path) -> None:
    fifo = path.with_name(f"{path.name}.fifo")
    os.mkfifo(fifo)
    path.symlink_to(fifo.name)


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


KINDS: dict[str, Callable[[Path], None]] = {
    "directory": Path.mkdir,
    "fifo": os.mkfifo,
    "socket": _socket,
    "device": _device,
    "link to a fifo": _link_to_fifo,
    "link to itself": _loop,
    "empty file": Path.touch,
    "terabyte of nothing": _sparse,
}
NEVER_OPENED = ("directory", "fifo", "device")


def put(kind: str, path: Path) -> Path:
    """Something of a kind of KINDS at a path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    KINDS[kind](path)
    return path


@contextmanager
def leased(path: Path) -> Iterator[None]:
    """Opening the file blocks meanwhile (fcntl(2), F_SETLEASE)."""
    command = [sys.executable, "-c", _HOLD_A_LEASE, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"ready\n"
        try:
            yield
        finally:
            holder.kill()


@contextmanager
def not_hanging() -> Iterator[None]:
    """A hang is a failure. The duration is not limited otherwise."""

    def fail(*_: object) -> None:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(_HANG_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


class Opened:
    """Whether a path was opened, by inotify(7): O_PATH does not count."""

    def __init__(self, path: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = libc.inotify_init1(_IN_NONBLOCK)
        assert libc.inotify_add_watch(self._descriptor, os.fsencode(path), _IN_OPEN) >= 0

    def __bool__(self) -> bool:
        return bool(select.select([self._descriptor], [], [], 0)[0])

    def close(self) -> None:
        os.close(self._descriptor)


def is_leasable(path: Path) -> bool:
    """Whether its file system has leases."""
    with path.open("rb") as file:
        try:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        except OSError:
            return False
    return True
