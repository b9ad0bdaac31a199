"""Names of code that a program generates at run time, from the file it writes for perf(1).

The file /tmp/perf-PID.map has a line a function, "START SIZE name", both numbers hexadecimal
(Linux, tools/perf/Documentation/jit-interface.txt). PID is the one the process sees itself.
"""

from __future__ import annotations

import os
import stat
from bisect import bisect_right

from leaktrace.symbols.names import printable
from leaktrace.symbols.table import SymbolMatch
from leaktrace.target.root import TargetRoot

_MAX_BYTES = 256 << 20
_MAX_FUNCTION_BYTES = 1 << 32
_OVERLAPS_SEEN = 64  # entries before an address that may still cover it


class PerfMap:
    """The perf map of a process; read again when it has grown since the last look.

    `problem` says why there are no names.
    """

    def __init__(self, root: TargetRoot, pid_inside: int, user: int) -> None:
        """`pid_inside`: the process id in the target's own namespace; `user`: its owner."""
        self.path = f"/tmp/perf-{pid_inside}.map"
        self.problem = ""
        self._root = root
        self._user = user
        self._stamp: tuple[int, ...] = ()
        self._entries: list[tuple[int, int, str]] = []  # start, end, name; by start
        self._starts: list[int] = []

    def lookup(self, address: int) -> SymbolMatch | None:
        """The function that an absolute address lies in. The newest entry of a place wins."""
        self._read_news()
        last = bisect_right(self._starts, address)
        for start, end, name in reversed(self._entries[max(0, last - _OVERLAPS_SEEN) : last]):
            if address < end:
                return SymbolMatch(name, address - start)
        if not self.problem:
            self.problem = f"{self.path} does not list it"
        return None

    def _read_news(self) -> None:
        try:
            descriptor = self._root.open(self.path, follow=False)
        except OSError as error:
            if not self._entries:
                missing = isinstance(error, FileNotFoundError)
                reason = "not there" if missing else error.strerror
                self.problem = f"{self.path} is {reason}" if missing else f"{self.path}: {reason}"
            return
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            stamp = (status.st_ino, status.st_size, status.st_mtime_ns)
            if stamp == self._stamp:
                return
            self._stamp = stamp
            if not stat.S_ISREG(status.st_mode) or status.st_uid != self._user:
                # Anybody may write to /tmp: names are taken from the process's user alone.
                self.problem = f"{self.path} does not belong to the process's user"
                self._entries, self._starts = [], []
                return
            self.problem = ""
            self._parse(file.read(_MAX_BYTES))

    def _parse(self, text: bytes) -> None:
        newest: dict[int, tuple[int, int, str]] = {}
        for line in text.split(b"\n"):
            parts = line.split(None, 2)
            if len(parts) != 3:
                continue
            try:
                start, size = int(parts[0], 16), int(parts[1], 16)
            except ValueError:
                continue
            if 0 < size < _MAX_FUNCTION_BYTES and 0 <= start < 1 << 64:
                newest[start] = (
                    start,
                    start + size,
                    printable(parts[2].decode("utf-8", "replace")),
                )
        self._entries = sorted(newest.values())
        self._starts = [start for start, _, _ in self._entries]
