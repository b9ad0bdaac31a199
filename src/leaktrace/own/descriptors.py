"""How many files may be open at once (getrlimit(2), RLIMIT_NOFILE), and which are closed first.

A process can have thousands of objects mapped. Each is kept open, so that its names are known after
it is unloaded or the process has ended. leaktrace raises its limit as far as it may. If that is not
enough, the least recently used files are closed. They are opened again when they are needed,
provided that they haven't changed.
"""

from __future__ import annotations

import contextlib
import resource
import threading
import weakref
from collections import OrderedDict
from typing import Protocol

# For maps, programs, pipes, child processes, and objects that can't be opened again.
_RESERVED = 128
_FEWEST = 8
_MOST = 1 << 20  # programs that loop over all descriptors get slow with more

_soft_at_start, _ = resource.getrlimit(resource.RLIMIT_NOFILE)


def raise_limit() -> None:
    """Raise the soft limit of this process to the hard limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST if hard == resource.RLIM_INFINITY else min(hard, _MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def restore_limit() -> None:
    """Restore the soft limit that leaktrace was started with, for a command that it starts."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (_soft_at_start, hard))


class Closable(Protocol):
    """A file that can be closed and opened again."""

    pins: int  # readers at this moment: above 0 it must stay open

    def let_go(self) -> None: ...


class Pool:
    """The open files that could be opened again, least recently used first.

    Several threads read such files: a thread that needs a descriptor holds `lock` until it has
    pinned the file.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._open: OrderedDict[int, weakref.ref[Closable]] = OrderedDict()
        self.closed = 0  # how often a file was closed to make room

    @property
    def capacity(self) -> int:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return _MOST if soft == resource.RLIM_INFINITY else max(soft - _RESERVED, _FEWEST)

    def use(self, file: Closable) -> None:
        """Note that `file` is open and was used last; close others if there are too many."""
        key = id(file)
        with self.lock:
            if key in self._open:
                self._open.move_to_end(key)
                return
            self._open[key] = weakref.ref(file, lambda _: self._open.pop(key, None))
            excess = len(self._open) - self.capacity
            for other, reference in list(self._open.items()) if excess > 0 else ():
                unused = reference()
                if excess <= 0 or unused is file:
                    break
                if unused is not None and unused.pins:
                    continue
                self._open.pop(other, None)
                excess -= 1
                if unused is not None:
                    unused.let_go()
                    self.closed += 1

    def note(self) -> str:
        """A note for the report; "" if every file could stay open."""
        if not self.closed:
            return ""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return (
            f"the process maps more objects than may be open at once (ulimit -n: {soft:,}): names "
            "are missing for files that were deleted or replaced before they were opened again"
        )


POOL = Pool()
