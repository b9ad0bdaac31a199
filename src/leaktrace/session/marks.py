"""Marks in a recording: named moments, which others ask for while it is written.

`leaktrace mark NAME` sends the name to a Unix socket in the abstract namespace, whose name has the
process id of the leaktrace that records. Nothing is left behind when that is killed. Only the same
user and root are answered: the kernel says who is at the other end (SO_PEERCRED, unix(7)). SIGUSR2
makes a mark that has a number for a name.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from leaktrace.errors import LeaktraceError, OutputError, TargetAccessError, TargetError
from leaktrace.notices import hint, notify
from leaktrace.printable import printable
from leaktrace.report.names import shorten_middle

_PREFIX = "leaktrace-recording-"
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid
_LONGEST_NAME = 200  # characters
_LONGEST_MESSAGE = 4 * _LONGEST_NAME + 64  # bytes
_ASKER_S = 1.0  # the one that asks writes at once
_MOST_CELLS = 60  # of a command line
_ANSWER_S = 600.0  # a report may take long
_HOW = "start one with --record FILE"
_NOT_RECORDED = "not recorded: "  # begins an answer; otherwise it is the number of a report


@dataclass(frozen=True)
class Marked:
    """What has become of a mark."""

    report: int  # the number of the report that was made for it
    failure: str | None = None  # why neither is in the recording


class MarkRequests:
    """Requests of marks, for as long as a recording is written. The signal wakes whoever waits for
    own/interrupts.py."""

    def __init__(self) -> None:
        self._signalled = 0  # signals that were not answered yet
        self._count = 0
        self._before = signal.signal(signal.SIGUSR2, self._on_signal)
        self._socket = _listening()

    def filenos(self) -> list[int]:
        """Readable when somebody asks for a mark by its name."""
        return [] if self._socket is None else [self._socket.fileno()]

    def are_asked(self, readable: Collection[int]) -> bool:
        """Whether there is something to answer. `readable`: descriptors that are."""
        return self._signalled > 0 or any(one in readable for one in self.filenos())

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._signalled += 1

    def answer(self, mark: Callable[[str], Marked]) -> None:
        """Make the marks that were asked for. `mark` makes one; what it raises is raised."""
        if self._signalled:
            self._signalled = 0  # several at once are one moment
            self._count += 1
            mark(f"mark-{self._count}")
        while self._socket is not None:
            try:
                asker, _ = self._socket.accept()
            except OSError:  # nobody asks
                return
            with asker:
                name = _name_from(asker)
                if name:
                    answer = _answer(mark(printable(name, _LONGEST_NAME)))
                    with contextlib.suppress(OSError):  # nobody waits for it any more
                        asker.send(answer)

    def close(self) -> None:
        signal.signal(signal.SIGUSR2, self._before)
        if self._socket is not None:
            self._socket.close()


def send_mark(name: str, pid: int | None) -> tuple[int, str]:
    """Ask the leaktrace of this process id for a mark; None: the only one that records. Returns the
    number of its report, and which leaktrace that is, in words. Raises LeaktraceError, also if the
    report could not be recorded."""
    recording = _recording()
    if pid is None:
        if not recording:
            raise TargetError("no leaktrace is recording here", _HOW)
        if len(recording) > 1:
            each = ", ".join(map(_in_words, recording))
            raise TargetError(
                f"several are recording: {each}", f"name one: leaktrace mark NAME -p {recording[0]}"
            )
        pid = recording[0]
    elif pid not in recording:
        others = f"; recording here: {', '.join(map(_in_words, recording))}" if recording else ""
        raise TargetError(f"process {pid} is no leaktrace that is recording{others}", _HOW)
    which = _in_words(pid)  # it may end with this report
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as asking:
        asking.settimeout(_ANSWER_S)
        try:
            asking.connect(_address(pid))
            if not _is_trusted(asking, pid):
                raise TargetError(
                    f"{pid} is not the process that answers for it: somebody else took its name",
                    f"send the signal instead: kill -USR2 {pid}",
                )
            asking.send(name.encode("utf-8", "surrogateescape"))
            answer = asking.recv(_LONGEST_MESSAGE)
        except TimeoutError:
            raise LeaktraceError(
                f"leaktrace {pid} has not answered for {_ANSWER_S:g} s", "is it stopped?"
            ) from None
        except OSError as error:
            raise TargetError(
                f"can't ask leaktrace {pid} for a mark: {error.strerror}", "it may have ended"
            ) from None
    words = printable(answer.decode("utf-8", "replace"))
    if words.startswith(_NOT_RECORDED):
        raise OutputError(words, "tracing goes on: free some space there, and mark again")
    if not answer.isdigit():
        raise TargetAccessError(
            f"leaktrace {pid} has made no mark: it ended, or it is another user's",
            "run as the user that it runs as, or as root",
        )
    return int(answer), which


def _in_words(pid: int) -> str:
    """A process with its arguments, which say what it traces and records."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    except OSError:
        words = []
    at = next((at for at, one in enumerate(words) if one.endswith("leaktrace")), 0)
    shown = shorten_middle(printable(" ".join(words[at + 1 :]).strip()), _MOST_CELLS)
    return f"{pid} ({shown})" if shown else str(pid)


def _name_from(asker: socket.socket) -> str:
    """The name that somebody asks for; empty if there is none, or it is somebody else's."""
    try:
        asker.settimeout(_ASKER_S)
        if not _is_trusted(asker):
            return ""
        return asker.recv(_LONGEST_MESSAGE).decode("utf-8", "surrogateescape")
    except OSError:  # it asks nothing, or has gone
        return ""


def _answer(marked: Marked) -> bytes:
    if marked.failure is None:
        return str(marked.report).encode()
    return f"{_NOT_RECORDED}{marked.failure}".encode()[:_LONGEST_MESSAGE]


def _listening() -> socket.socket | None:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        listening.setblocking(False)
        listening.bind(_address(os.getpid()))
        listening.listen(8)
    except OSError as error:
        listening.close()
        notify(f"leaktrace mark can't reach this recording: {error.strerror}")
        hint(f"kill -USR2 {os.getpid()} makes a mark without a name")
        return None
    return listening


def _address(pid: int) -> str:
    return f"\0{_PREFIX}{pid}"


def _recording() -> list[int]:
    """The process ids in the names of all such sockets."""
    try:
        lines = Path("/proc/net/unix").read_text("utf-8", "replace").splitlines()
    except OSError:
        return []
    names = {line.rpartition(" ")[2] for line in lines}
    pids = (one.removeprefix(f"@{_PREFIX}") for one in names if one.startswith(f"@{_PREFIX}"))
    return sorted(int(pid) for pid in pids if pid.isascii() and pid.isdecimal() and len(pid) < 10)


def _is_trusted(other: socket.socket, pid: int | None = None) -> bool:
    """Whether this user or root is at the other end. `pid`: as which process."""
    found = other.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    other_pid, user, _ = _CREDENTIALS.unpack(found)
    return user in (0, os.geteuid()) and pid in (None, other_pid)
