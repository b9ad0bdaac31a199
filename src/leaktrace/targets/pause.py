"""Stops a process for a moment, so that its registers and its memory are those of one instant.

    with Pause(pid, most_ms=200) as pause:
        …                       # read memory: process_vm_readv(2), /proc/PID/mem
        if not pause.still_holds(): …

A process of its own does it (pause_child.py): however it or this one ends, the process goes on, and
at the latest when the time is up. What the process may notice is that some system calls return
EINTR (signal(7), "Interruption of system calls and library functions by stop signals").
"""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from leaktrace.arch.machines import this_machine
from leaktrace.bpf.compiler_process import last_line
from leaktrace.capabilities import Capability, refused
from leaktrace.errors import EnvironmentUnfitError, LeaktraceError, TargetAccessError, TargetError
from leaktrace.own.shortages import shortage
from leaktrace.targets.access import NO_ATTACH, yama_scope
from leaktrace.targets.stopped import tracer_name
from leaktrace.targets.thread_stops import GENERAL_WORDS

_PROGRAM = Path(__file__).with_name("pause_child.py")
_START_S = 10.0  # for the start of the child
_ANSWER_S = 5.0  # beyond the time for which the process may be stopped
_MESSAGE_BYTES = 4096
# struct user_regs_struct (sys/user.h), in words: r15 to rdi, then others.
_GENERAL, _RBP, _RDI, _IP, _SP, _FS_BASE = slice(0, 15), 4, 14, 16, 19, 21
# XSAVE (Intel SDM 1, 13.4): 32 bytes of the state of the FPU, its registers, xmm; from byte 464 on
# 112 bytes that are no registers; then the wider ones.
_VECTOR = (slice(4, 58), slice(72, None))


@dataclass(frozen=True, eq=False)
class StoppedThread:
    """What a thread has in its registers."""

    tid: int
    instruction_pointer: int
    stack_pointer: int
    thread_pointer: int  # fs base; 0: not set
    words: NDArray[np.uint64]  # all others, general and vector registers

    @property
    def frame_pointer(self) -> int:
        """Rbp."""
        return int(self.words[_RBP]) if len(self.words) > _RBP else 0

    @property
    def first_argument(self) -> int:
        """Of the system call that it is in (rdi)."""
        return int(self.words[_RDI])


class Pause:
    """Stops a process from `__enter__` to `__exit__`, once."""

    def __init__(self, pid: int, most_ms: int = 200) -> None:
        """`most_ms`: after that time the process goes on, whatever happens. Starts the child, which
        is ready some 50 ms later.

        Raises EnvironmentUnfitError when this machine, or a limit, doesn't allow it, and
        TargetError when there is no such process.
        """
        machine = this_machine()
        if machine is None or not machine.has_saved_registers:
            raise EnvironmentUnfitError(
                "leaktrace doesn't know the registers of this machine", "it knows those of x86_64"
            )
        if pid == os.getpid():
            raise TargetError("leaktrace can't stop itself", "use another pid")
        self.pid = pid
        self.most_ms = most_ms
        self.late = 0  # threads that could not be stopped: what they do meanwhile isn't known
        self.took_s = 0.0  # after the block: from the first stop until the last thread goes on
        self.given_up = False  # after the block: the time was up before
        self._asked_s = 0.0
        self._holds = False
        self._registers = b""
        try:
            self._start()
        except ProcessLookupError:
            raise _gone(pid) from None
        except OSError as error:
            raise shortage(error) or _failed(pid, error.strerror or "") from None

    def _start(self) -> None:
        with ExitStack() as ours, ExitStack() as theirs:
            process = os.pidfd_open(self.pid)
            theirs.callback(os.close, process)
            # Files in memory, not pipes, which could fill up.
            self._messages: IO[bytes] = os.fdopen(os.memfd_create("pause messages"), "r+b")
            ours.enter_context(self._messages)
            self._memory = os.memfd_create("registers")
            ours.callback(os.close, self._memory)
            self._socket, other_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ours.enter_context(self._socket)
            theirs.enter_context(other_end)
            handed = (other_end.fileno(), self._memory, process)
            self._child = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-S", "-B", str(_PROGRAM)),
                    *map(str, (*handed, self.pid, self.most_ms)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._messages,
                pass_fds=handed,
                start_new_session=True,  # Ctrl-C doesn't reach it
            )
            self._open = ours.pop_all()

    def __enter__(self) -> Self:
        """Stop the process. If the time was up before that was done, there are no `threads`, and it
        doesn't hold.

        Raises TargetError when the process has ended, or another process traces it (with
        ptrace(2)), TargetAccessError when it isn't permitted, EnvironmentUnfitError when the child
        fails.
        """
        try:
            if self._receive(_START_S) is None:
                raise self._child_failed()
            self._asked_s = time.monotonic()
            self._send()
            self._begin(self._receive(self.most_ms / 1000 + _ANSWER_S))
        except BaseException:
            self.close()
            raise
        return self

    def _begin(self, answer: dict[str, Any] | None) -> None:
        if answer is None or "expired" in answer:  # None: it was killed
            self.given_up = True
            return
        if "gone" in answer:
            raise _gone(self.pid)
        if "tracer" in answer:
            raise _refused(self.pid, answer["tracer"])
        self.late = answer["late"]
        self._registers = os.pread(self._memory, answer["registers"], 0)
        self._holds = True

    @cached_property
    def threads(self) -> tuple[StoppedThread, ...]:
        """All threads that were stopped."""
        return tuple(_threads(self._registers))

    def still_holds(self) -> bool:
        """Whether no thread has gone on yet. If not, what was read since is not of one instant."""
        return self._holds and not _is_readable(self._socket, 0)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._holds = False
        took_s = None
        try:
            self._send()
            while (message := self._receive(self.most_ms / 1000 + _ANSWER_S)) is not None:
                self.given_up |= "expired" in message
                if "over" in message:
                    took_s = message["over"]
                    break
        finally:
            self.close()
        if took_s is None:  # it was killed: the kernel has let the process go
            self.given_up = True
            took_s = time.monotonic() - self._asked_s
        self.took_s = took_s

    def close(self) -> None:
        """Let the process go, if it is stopped. Needed only if the block was not entered."""
        self._holds = False
        if self._socket.fileno() < 0:
            return
        self._socket.close()  # by which the child ends
        try:
            self._child.wait(_ANSWER_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._open.close()

    def _send(self) -> None:
        with suppress(OSError):  # it may have been killed
            self._socket.send(b"x")

    def _receive(self, timeout_s: float) -> dict[str, Any] | None:
        """A message; None if the child has ended, or says nothing."""
        if not _is_readable(self._socket, timeout_s):
            return None
        try:
            data = self._socket.recv(_MESSAGE_BYTES)
        except ConnectionResetError:  # it has ended before it read all, and may have said something
            data = self._socket.recv(_MESSAGE_BYTES)
        message: dict[str, Any] | None = json.loads(data) if data else None
        return message

    def _child_failed(self) -> LeaktraceError:
        self._messages.seek(0)
        return _failed(self.pid, last_line(self._messages.read(1 << 16).decode(errors="replace")))


def _is_readable(connection: socket.socket, timeout_s: float) -> bool:
    """Whether there is a message, or the other end is closed."""
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))


def _threads(data: bytes) -> Iterator[StoppedThread]:
    """What thread_stops.ThreadStops.registers has written."""
    words = np.frombuffer(data[: len(data) // 8 * 8], dtype=np.uint64)
    at = 0
    while at < len(words):
        tid, general_bytes, vector_bytes = (int(word) for word in words[at : at + 3])
        general = words[at + 3 : at + 3 + general_bytes // 8]
        at += 3 + general_bytes // 8
        vector = words[at : at + vector_bytes // 8]
        at += vector_bytes // 8
        if len(general) < GENERAL_WORDS or not (general[_IP] or general[_SP]):
            continue  # a thread of the kernel's within the process
        yield StoppedThread(
            tid=tid,
            instruction_pointer=int(general[_IP]),
            stack_pointer=int(general[_SP]),
            thread_pointer=int(general[_FS_BASE]),
            words=np.concatenate([general[_GENERAL], *(vector[part] for part in _VECTOR)]),
        )


def _gone(pid: int) -> TargetError:
    return TargetError(f"process {pid} has ended", "check the process id (pgrep NAME)")


def _failed(pid: int, why: str) -> EnvironmentUnfitError:
    return EnvironmentUnfitError(
        f"process {pid} can't be stopped: the process that should do it failed: {why}", "try again"
    )


def _refused(pid: int, tracer: int) -> TargetError:
    what = f"process {pid} can't be stopped"
    if tracer:
        return TargetError(
            f"{what}: {tracer_name(tracer)} (process {tracer}) is attached to it",
            "detach that debugger first",
        )
    scope = yama_scope()
    if scope >= NO_ATTACH:
        return TargetAccessError(
            f"{what}: kernel.yama.ptrace_scope is {scope}, which forbids it to every user",
            "boot with a lower kernel.yama.ptrace_scope",
        )
    more = f"; or set kernel.yama.ptrace_scope, which is {scope}, to 0" if scope else ""
    return refused(what, Capability.SYS_PTRACE, more)
