"""The keeper: a small process that holds the probes and outlives the tracer. This is the tracer's
side of it.

The keeper attaches, holds and removes every probe on a function of a target; keeper_child.py, which
is its program, explains why. It notices the end of the tracer, whatever the cause, because their
socket is closed; it then removes the remaining probes and exits. It answers a request after
carrying it out: when `remove` returns, the probes are removed.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any

from leaktrace.bpf.compiler_process import last_line
from leaktrace.bpf.links import uprobe_event_type
from leaktrace.errors import LeaktraceError, system_error

_PROGRAM = Path(__file__).with_name("keeper_child.py")
_ANSWER_BYTES = 4096
_REMOVED_AT_ONCE = 4096  # probes: a message to the keeper has a limited length


class KeeperGoneError(LeaktraceError):
    """The keeper has ended unexpectedly, and the probes with it."""


class Keeper:
    """The process. Start it early: it is ready then when the first request comes."""

    def __init__(self) -> None:
        """Raises OSError when the process can't be started."""
        self._requests = 0
        # A file in memory, not a pipe, which could fill up: it is only read after a failure.
        self._messages: IO[bytes] = os.fdopen(os.memfd_create("keeper messages"), "r+b")
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        tracer = os.pidfd_open(os.getpid())
        try:
            with theirs:
                handed = (theirs.fileno(), tracer)
                self._child = subprocess.Popen(
                    # Isolated and without site, it imports very little.
                    [sys.executable, "-I", "-S", "-B", str(_PROGRAM), *map(str, handed)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=self._messages,
                    pass_fds=handed,
                    # Signals to leaktrace's process group don't reach it.
                    start_new_session=True,
                )
        except OSError:
            self._socket.close()
            self._messages.close()
            raise
        finally:
            os.close(tracer)

    @property
    def pid(self) -> int:
        return self._child.pid

    def fileno(self) -> int:
        """Readable when the keeper has ended: it sends nothing between requests."""
        return self._socket.fileno()

    def is_gone(self) -> bool:
        """Whether it has ended."""
        poll = select.poll()
        poll.register(self._socket, 0)  # only whether the other end is closed
        return bool(poll.poll(0))

    def attach_uprobes(
        self,
        program: int,
        path: str,
        offsets: Sequence[int],
        cookies: Sequence[int],
        *,
        pid: int,
        is_return: bool = False,
    ) -> int:
        """One link for many functions, as `links.attach_uprobes`. Returns a number for `remove`.

        Raises OSError with the kernel's errno, and KeeperGoneError.
        """
        request = {
            "do": "link",
            "offsets": list(offsets),
            "cookies": list(cookies),
            "pid": pid,
            "is_return": is_return,
        }
        return self._attach(request, program, path)

    def attach_uprobe_event(
        self, program: int, path: str, offset: int, cookie: int, *, pid: int, is_return: bool
    ) -> int:
        """One probe as a perf event, as `links.attach_uprobe_event`. Returns a number for `remove`.

        Raises OSError with the kernel's errno, KeeperGoneError and EnvironmentUnfitError.
        """
        kind, return_bit = uprobe_event_type()
        request = {
            "do": "event",
            "kind": kind,
            "config": return_bit if is_return else 0,
            "offset": offset,
            "cookie": cookie,
            "pid": pid,
        }
        return self._attach(request, program, path)

    def _attach(self, request: dict[str, Any], program: int, path: str) -> int:
        # The keeper gets the open file: for it, the path may name another one.
        file = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            number, failed = self._ask(request, [program, file])
        finally:
            os.close(file)
        if failed:
            raise system_error(failed, path)
        return number

    def remove(self, probes: Sequence[int]) -> None:
        """Remove probes, and return when that is done. Raises KeeperGoneError."""
        for start in range(0, len(probes), _REMOVED_AT_ONCE):
            some = list(probes[start : start + _REMOVED_AT_ONCE])
            self._ask({"do": "remove", "numbers": some}, [])

    def guard(self, command: int) -> None:
        """If the tracer is killed, the keeper continues this process, which may be stopped then.

        `command` is its pid. Raises KeeperGoneError.
        """
        pidfd = os.pidfd_open(command)
        try:
            self._ask({"do": "guard"}, [pidfd])
        finally:
            os.close(pidfd)

    def end(self) -> None:
        """Remove the remaining probes, and wait for the end of the keeper."""
        with contextlib.suppress(OSError):  # it has already ended
            self._socket.send(json.dumps({"do": "end"}).encode())
        self._child.wait()
        self._socket.close()
        self._messages.close()

    def undo_if_killed(self, writes: Iterable[tuple[Path, str]]) -> None:
        """Files of the kernel, and what to write to them if leaktrace ends without doing it. Raises
        KeeperGoneError."""
        self._ask({"do": "undo", "writes": [(str(path), value) for path, value in writes]}, [])

    def _ask(self, request: dict[str, Any], descriptors: list[int]) -> tuple[int, int]:
        """Send a request. Returns its number, and the errno in the answer, 0 for success."""
        self._requests += 1
        number = self._requests
        message = json.dumps(request | {"number": number}).encode()
        try:
            socket.send_fds(self._socket, [message], descriptors)
            while data := self._socket.recv(_ANSWER_BYTES):
                answer = json.loads(data)
                # The answer to an earlier request may be unread, after an interrupt.
                if answer["number"] == number:
                    return number, int(answer["errno"])
        except (BrokenPipeError, ConnectionResetError):
            pass
        raise self.gone()

    def gone(self) -> KeeperGoneError:
        """The error to raise when it has ended unexpectedly."""
        code = self._child.wait()
        self._messages.seek(0)
        said = self._messages.read(1 << 16).decode(errors="replace")
        how = f"was killed by signal {-code}" if code < 0 else f"failed: {last_line(said)}"
        return KeeperGoneError(
            f"the process that holds the probes (probe-keeper, pid {self.pid}) {how}",
            "check whether memory ran out; run leaktrace -p again: it removes breakpoints that "
            "were left in the process",
        )
