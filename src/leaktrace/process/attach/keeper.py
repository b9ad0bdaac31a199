"""The keeper of the probes, as the tracer sees it: a small process that outlives it.

Every probe on a function of a target is put on, held and taken off by the keeper;
`leaktrace.process.attach.keeper_child` tells why. It notices the end of the tracer, whatever ended
it, by the end of their socket; then it takes off what is still on, and exits. It answers a request
when it has done what was asked: after `take_off` no probe is left.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from leaktrace.bpf.compiler import last_line
from leaktrace.bpf.links import uprobe_event_type
from leaktrace.errors import LeaktraceError, system_error

_PROGRAM = Path(__file__).with_name("keeper_child.py")
_ANSWER_BYTES = 4096


class KeeperGoneError(LeaktraceError):
    """The keeper has ended before its time, and the probes with it."""


class Keeper:
    """Started early: it is ready by the time there is something to ask."""

    def __init__(self) -> None:
        """Raises OSError when the process can't be started."""
        self._requests = 0
        # In memory, and no pipe: what is written there may never be read.
        self._messages: IO[bytes] = os.fdopen(os.memfd_create("keeper messages"), "r+b")
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        tracer = os.pidfd_open(os.getpid())
        try:
            with theirs:
                handed = (theirs.fileno(), tracer)
                self._child = subprocess.Popen(
                    # Isolated and without site: it imports next to nothing.
                    [sys.executable, "-I", "-S", "-B", str(_PROGRAM), *map(str, handed)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=self._messages,
                    pass_fds=handed,
                    # What is sent to leaktrace's process group doesn't reach it.
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
        """Readable when it is gone; between requests it says nothing."""
        return self._socket.fileno()

    def is_gone(self) -> bool:
        """Whether it has ended, and the probes with it."""
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
        """One link for many functions, as `links.attach_uprobes`. Returns what `take_off` takes.

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
        """One probe as a perf event, as `links.attach_uprobe_event`. Returns what `take_off` takes.

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
        # The file itself is handed over: a path may mean something else to the keeper.
        file = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            number, failed = self._ask(request, [program, file])
        finally:
            os.close(file)
        if failed:
            raise system_error(failed, path)
        return number

    def take_off(self, probes: Sequence[int]) -> None:
        """Take probes off, and wait until they are. Raises KeeperGoneError."""
        if probes:
            self._ask({"do": "take off", "numbers": list(probes)}, [])

    def guard(self, command: int) -> None:
        """Should the tracer be killed, continue this process, which may be stopped at that moment.

        Raises KeeperGoneError.
        """
        pidfd = os.pidfd_open(command)
        try:
            self._ask({"do": "guard"}, [pidfd])
        finally:
            os.close(pidfd)

    def end(self) -> None:
        """Take off what is still on, and wait for the end of the process."""
        with contextlib.suppress(OSError):  # it is gone already
            self._socket.send(json.dumps({"do": "end"}).encode())
        self._child.wait()
        self._socket.close()
        self._messages.close()

    def _ask(self, request: dict[str, Any], descriptors: list[int]) -> tuple[int, int]:
        """Returns the number of the request, and the errno it was answered with."""
        self._requests += 1
        number = self._requests
        message = json.dumps(request | {"number": number}).encode()
        try:
            socket.send_fds(self._socket, [message], descriptors)
            while data := self._socket.recv(_ANSWER_BYTES):
                answer = json.loads(data)
                # An interrupt may have kept us from reading an earlier answer.
                if answer["number"] == number:
                    return number, int(answer["errno"])
        except (BrokenPipeError, ConnectionResetError):
            pass
        raise self.gone()

    def gone(self) -> KeeperGoneError:
        """What to say when it has ended before its time."""
        code = self._child.wait()
        self._messages.seek(0)
        said = self._messages.read(1 << 16).decode(errors="replace")
        how = f"was killed by signal {-code}" if code < 0 else f"failed: {last_line(said)}"
        return KeeperGoneError(
            f"the process that holds the probes (probe-keeper, pid {self.pid}) {how}",
            "was memory scarce? A new leaktrace -p takes off what it may have left on",
        )
