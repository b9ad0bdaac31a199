"""Names of code that a program generates at run time, from the file that it writes for perf(1).

The file /tmp/perf-PID.map has a line per function, "START SIZE name", both numbers in hexadecimal
(Linux, tools/perf/Documentation/jit-interface.txt). PID is the one in the process's own namespace.
"""

from __future__ import annotations

import os
import re
import time
from array import array
from itertools import islice
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from leaktrace.elf.symbols import SymbolMatch
from leaktrace.printable import printable
from leaktrace.targets.root import TargetRoot

_MAX_BYTES = 16 << 20
_MAX_ENTRIES = 500_000
_MAX_FUNCTION_BYTES = 1 << 32
_MAX_OVERLAPPING = 64  # how many entries before an address are checked whether they cover it
_READ_INTERVAL_S = 1.0  # between reads, unless `refresh` was called
_PAUSE_FACTOR = 19  # how many times as long as a complete read the next one is delayed
_COMPARED_BYTES = 256  # at the end of the known text, to check that the file has only grown

_LINE = re.compile(
    rb"^[ \t]*(?:0[xX])?([0-9a-fA-F]{1,16})[ \t]+(?:0[xX])?([0-9a-fA-F]{1,16})[ \t]+(\S[^\n]*)",
    re.MULTILINE,
)


class PerfMap:
    """The perf map of a process. Text that is appended to it is read at intervals.

    At most 16 MiB and 500,000 lines are read. `problem` says why the last lookup found no name.
    """

    def __init__(self, root: TargetRoot, pid_inside: int, user: int) -> None:
        """`pid_inside` is the pid in the target's own namespace, `user` its user id."""
        self.path = f"/tmp/perf-{pid_inside}.map"
        self.problem = ""
        self._root = root
        self._user = user
        self._unreadable = ""
        self._next_read_s = 0.0  # on the clock of time.monotonic()
        self._next_whole_s = 0.0  # when it may be read from the start again
        self._forget()

    def _forget(self) -> None:
        self._stamp: tuple[int, ...] = ()  # inode, size, time of the last change
        self._text = bytearray()  # what was read, up to the last complete line
        self._is_cut = False
        # Sorted by start, without duplicates: names[i] are the bounds of the name in the text.
        self._starts: NDArray[np.uint64] = np.empty(0, np.uint64)
        self._ends: NDArray[np.uint64] = np.empty(0, np.uint64)
        self._names: NDArray[np.int64] = np.empty((0, 2), np.int64)
        self._last_line = b""  # an incomplete one
        self._line_count = 0

    def refresh(self) -> None:
        """Make the next lookup see everything that was written so far."""
        self._next_read_s = 0.0

    def lookup(self, address: int) -> SymbolMatch | None:
        """The function that contains an absolute address. Of several entries with the same start,
        the newest one counts."""
        if time.monotonic() >= self._next_read_s:
            self._read_changes()
            self._next_read_s = time.monotonic() + _READ_INTERVAL_S
        last = int(np.searchsorted(self._starts, np.uint64(address), side="right"))
        first = max(0, last - _MAX_OVERLAPPING)
        covering = np.flatnonzero(self._ends[first:last] > np.uint64(address))
        if len(covering):
            at = first + int(covering[-1])
            return SymbolMatch(self._name(at), address - int(self._starts[at]))
        self.problem = self._unreadable or f"{self.path} does not list it" + (
            f" in what is read of it, at most {_MAX_BYTES >> 20} MiB and {_MAX_ENTRIES:,} lines"
            if self._is_cut
            else ""
        )
        return None

    def _name(self, at: int) -> str:
        start, end = self._names[at].tolist()
        known = len(self._text)
        if start >= known:
            name = self._last_line[start - known : end - known]
        else:
            name = bytes(self._text[start:end])
        return printable(name.decode("utf-8", "surrogateescape"))

    # -- reading ------------------------------------------------------------------------------

    def _read_changes(self) -> None:
        try:
            descriptor = self._root.open(self.path, follow=False)
        except FileNotFoundError:
            self._unreadable = "" if len(self._starts) else f"{self.path} is not there"
            return
        except OSError as error:
            self._unreadable = "" if len(self._starts) else f"{self.path}: {error.strerror}"
            return
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            if status.st_uid != self._user:
                # Every user may write to /tmp: only a file of the process's user is trusted.
                self._unreadable = f"{self.path} does not belong to the process's user"
                self._forget()
                return
            self._unreadable = ""
            stamp = (status.st_ino, status.st_size, status.st_mtime_ns)
            if stamp == self._stamp:
                return
            try:
                if self._has_only_grown(file, stamp):
                    self._read_on(file, status.st_size)
                    self._stamp = stamp
                elif time.monotonic() >= self._next_whole_s:
                    started_s = time.monotonic()
                    self._forget()
                    self._read_on(file, status.st_size)
                    self._stamp = stamp
                    now_s = time.monotonic()
                    self._next_whole_s = now_s + _PAUSE_FACTOR * (now_s - started_s)
            except OSError as error:
                self._unreadable = f"{self.path}: {error.strerror}"

    def _has_only_grown(self, file: BinaryIO, stamp: tuple[int, ...]) -> bool:
        """Whether text was appended to the file, and nothing else changed."""
        if not self._stamp or stamp[0] != self._stamp[0] or stamp[1] <= self._stamp[1]:
            return False
        known = self._text[-_COMPARED_BYTES:]
        return os.pread(file.fileno(), len(known), len(self._text) - len(known)) == known

    def _read_on(self, file: BinaryIO, size_bytes: int) -> None:
        """Read what follows the known text."""
        if self._is_cut:
            return
        file.seek(len(self._text))
        text = file.read(min(size_bytes, _MAX_BYTES) - len(self._text))
        whole_bytes = text.rfind(b"\n") + 1
        self._is_cut = size_bytes > _MAX_BYTES
        # An incomplete last line counts as a line too. It is read again when more follows.
        self._last_line = b"" if self._is_cut else text[whole_bytes:]
        self._parse(text[:whole_bytes] + self._last_line)
        self._text += text[:whole_bytes]

    def _parse(self, text: bytes) -> None:
        """Add the functions of a text that follows the known one."""
        starts, ends, names = array("Q"), array("Q"), array("q")
        known = len(self._text)
        lines = _LINE.finditer(text)
        for line in islice(lines, _MAX_ENTRIES - self._line_count):
            start, size = int(line[1], 16), int(line[2], 16)
            if 0 < size < _MAX_FUNCTION_BYTES and start + size < 1 << 64:
                starts.append(start)
                ends.append(start + size)
                names.extend((known + line.start(3), known + line.end(3)))
            self._line_count += 1
        if next(lines, None) is not None:
            self._is_cut = True
        all_starts = np.concatenate([self._starts, np.array(starts, np.uint64)])
        all_ends = np.concatenate([self._ends, np.array(ends, np.uint64)])
        all_names = np.concatenate([self._names, np.array(names, np.int64).reshape(-1, 2)])
        order = np.argsort(all_starts, kind="stable")
        ordered = all_starts[order]
        is_newest = np.append(ordered[1:] != ordered[:-1], True)[: len(ordered)]
        newest = order[is_newest]
        self._starts = all_starts[newest]
        self._ends = all_ends[newest]
        self._names = all_names[newest]
