"""How many files may be open at once (getrlimit(2), RLIMIT_NOFILE), and whose turn it is to close.

A process can have thousands of objects mapped, and each is kept open, so that its names are known
when it is unloaded or has ended. leaktrace takes as many descriptors as it may have. Where those
are not enough, the files longest unused are closed; they are opened again when they are needed,
if they are the same still.
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
_MOST = 1 << 20  # what is gained by more is lost by programs that go through all of them

_soft_at_start, _ = resource.getrlimit(resource.RLIMIT_NOFILE)


def take_all() -> None:
    """Raise what this process may open to what it may raise it to."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST if hard == resource.RLIM_INFINITY else min(hard, _MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def give_back() -> None:
    """The limit that leaktrace was started with: a command that it starts gets that one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (_soft_at_start, hard))


class Closable(Protocol):
    """A file that can be closed and opened again."""

    pins: int  # by whom it is being read: it must stay open

    def let_go(self) -> None: ...


class Pool:
    """The files that are open and could be opened again, the one longest unused first.

    Several threads read such files: whoever needs a descriptor holds `lock` until the file is
    pinned.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._open: OrderedDict[int, weakref.ref[Closable]] = OrderedDict()
        self.closed = 0  # how often one had to make room

    @property
    def capacity(self) -> int:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return _MOST if soft == resource.RLIM_INFINITY else max(soft - _RESERVED, _FEWEST)

    def use(self, file: Closable) -> None:
        """It is open, and the one used last."""
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
        """What the reader of a report should know; "" where every file could stay open."""
        if not self.closed:
            return ""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return (
            f"more objects are mapped than may be open at once (ulimit -n: {soft:,}): names are "
            "missing where a file was deleted or replaced before it was opened again"
        )


POOL = Pool()
