"""Stops all threads of a process by ptrace(2) and reads their registers: x86-64.

Used by pause_child.py, so it imports little. PTRACE_SEIZE sets no option and sends no signal, so
the kernel lets every thread go on when the tracer ends, however it ends. Of a process that a signal
has stopped the threads stay stopped (group-stop). A thread that meets a signal just when it is to
stop reports that signal instead, and has to be given it back.
"""

from __future__ import annotations

import array
import ctypes
import errno
import os
import signal
import time

from leaktrace.errors import system_error

TYPE_CHECKING = False  # as in typing, whose import takes memory
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

GENERAL_WORDS = 27  # of struct user_regs_struct (sys/user.h)

_CONT, _DETACH, _GETREGSET, _SEIZE, _INTERRUPT = 7, 17, 0x4204, 0x4206, 0x4207  # linux/ptrace.h
_PRSTATUS, _X86_XSTATE = 1, 0x202  # NT_…, linux/elf.h
_WALL = 0x40000000  # threads, too (waitpid(2))
_MOST_REGISTER_BYTES = 1 << 14  # with AMX, 11 KiB
_UNINTERRUPTIBLE = "D"  # a state (proc_pid_stat(5))
_ATTEMPTS = 3
_IO_WORKER = 0x10  # PF_IO_WORKER, linux/sched.h, in the flags of proc_pid_stat(5)


class NotStoppableError(Exception):
    """The kernel refuses it: another process (`tracer`) traces the process, or (0) it isn't
    permitted."""

    def __init__(self, tracer: int) -> None:
        super().__init__(tracer)
        self.tracer = tracer


class ThreadStops:
    """The threads of one process. All calls must come from the same thread."""

    def __init__(self, pid: int) -> None:
        """Blocks SIGCHLD, which tells that a thread has stopped."""
        self._folder = f"/proc/{pid}/task"
        self._stopped: dict[int, int] = {}  # by thread: the signal to give back; 0: none
        self._late: list[int] = []
        self._ptrace = ctypes.CDLL(None, use_errno=True).ptrace
        self._ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
        self._ptrace.restype = ctypes.c_long
        self._registers = ctypes.create_string_buffer(_MOST_REGISTER_BYTES)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})

    def warm_up(self) -> None:
        """Do what `stop` does with threads that don't exist."""
        for _ in range(3):
            self._seize(0)
            self._await(0, 0.0, 0.0)
            self._read(0, _PRSTATUS)
            signal.sigtimedwait({signal.SIGCHLD}, 0)
            for tid in self._threads():
                self._status(tid)

    @property
    def late_count(self) -> int:
        """Threads that didn't stop in time: in vfork(2), or in a driver that can't be
        interrupted."""
        return len(self._late)

    @property
    def stopped_count(self) -> int:
        return len(self._stopped)

    def workers(self) -> set[int]:
        """Threads of the kernel's within the process (io_uring). They run none of its code, and
        what they wait for should not be disturbed."""
        return {tid for tid in self._threads() if self._status(tid)[1] & _IO_WORKER}

    def stop(self, workers: set[int], until_s: float, patience_s: float) -> bool:
        """Stop all threads but those, and those that start meanwhile. `until_s`: of time.monotonic;
        `patience_s`: with one that can't be interrupted. Returns whether there was enough time.
        Raises NotStoppableError."""
        while fresh := self._seize_new(workers, until_s):
            last_s = time.monotonic()
            for number, tid in enumerate(fresh):
                if time.monotonic() > until_s:
                    self._late += fresh[number:]
                    break
                if self._await(tid, min(until_s, last_s + patience_s), until_s):
                    last_s = time.monotonic()
        return time.monotonic() <= until_s

    def _seize_new(self, workers: set[int], until_s: float) -> list[int]:
        known = {*workers, *self._stopped, *self._late}
        fresh = []
        for tid in self._threads():
            if time.monotonic() > until_s:
                break
            if tid not in known and self._is_seized(tid):
                fresh.append(tid)
        return fresh

    def _is_seized(self, tid: int) -> bool:
        """Seize a thread. Returns whether it exists."""
        for _ in range(_ATTEMPTS):
            code = self._seize(tid)
            if code in (0, errno.ESRCH):
                return not code
            state, _, tracer = self._status(tid)
            if state in "ZX":  # the first thread may have ended long before the others
                return False
            if tracer == os.getpid():  # its id was that of another: it executes a program
                return True
            if tracer:
                break
            # Just then it may have taken the id of the first thread, which was dead.
        raise NotStoppableError(tracer)

    def _threads(self) -> list[int]:
        try:
            return [int(name) for name in os.listdir(self._folder)]  # noqa: PTH208
        except OSError:  # it has ended
            return []

    def _status(self, tid: int) -> tuple[str, int, int]:
        """State, flags (proc_pid_stat(5)) and tracer of a thread; X: it has ended."""
        try:
            with open(f"{self._folder}/{tid}/stat", "rb") as file:  # noqa: PTH123
                fields = file.read().rpartition(b")")[2].split()
            with open(f"{self._folder}/{tid}/status", "rb") as file:  # noqa: PTH123
                tracer = file.read().partition(b"\nTracerPid:")[2].split(maxsplit=1)[0]
        except (OSError, IndexError):
            return "X", 0, 0
        return fields[0].decode(), int(fields[6]), int(tracer)

    def _seize(self, tid: int) -> int:
        """Returns 0 or an errno."""
        if self._ptrace(_SEIZE, tid, None, None) < 0:
            return ctypes.get_errno()
        self._ptrace(_INTERRUPT, tid, None, None)
        return 0

    def _await(self, tid: int, patient_until_s: float, until_s: float) -> bool:
        """Wait until a thread has stopped. Returns whether it has; it may have ended, too."""
        while True:
            try:
                changed, status = os.waitpid(tid, _WALL | os.WNOHANG) if tid else (0, 0)
            except ChildProcessError:  # ended by an exec of another thread
                return False
            if changed and self._is_by_signal(status):
                self._deliver(tid, os.WSTOPSIG(status))
                continue
            if changed:
                return self._note(tid, status)
            now_s = time.monotonic()
            left_s = patient_until_s - now_s
            if left_s <= 0 and self._status(tid)[0] != _UNINTERRUPTIBLE:
                left_s = until_s - now_s  # it waits for a processor
            if left_s <= 0:
                if tid:
                    self._late.append(tid)
                return False
            signal.sigtimedwait({signal.SIGCHLD}, left_s)

    @staticmethod
    def _is_by_signal(status: int) -> bool:
        """Whether a thread has stopped because a signal is about to reach it."""
        return os.WIFSTOPPED(status) and not status >> 16

    def _deliver(self, tid: int, number: int) -> None:
        """Let the signal reach the thread, which stops directly behind that: it has it then, even
        if this process is killed."""
        self._ptrace(_INTERRUPT, tid, None, None)
        self._ptrace(_CONT, tid, None, number)

    def _note(self, tid: int, status: int) -> bool:
        if not os.WIFSTOPPED(status):  # it has ended
            return False
        is_event = status >> 16  # PTRACE_EVENT_STOP: by PTRACE_INTERRUPT, or a group-stop
        self._stopped[tid] = 0 if is_event else os.WSTOPSIG(status)
        return True

    def registers(self) -> Iterator[bytes]:
        """For each thread that has stopped: words of 8 bytes. Its id; how many bytes follow of
        struct user_regs_struct, and of the vector registers as XSAVE stores them; these."""
        for tid in self._stopped:
            general, vector = self._read(tid, _PRSTATUS), self._read(tid, _X86_XSTATE)
            if len(general) >= GENERAL_WORDS * 8:  # else it was killed meanwhile
                head = array.array("Q", [tid, len(general), len(vector)])
                yield head.tobytes() + general + vector

    def _read(self, tid: int, note: int) -> bytes:
        room = (ctypes.c_size_t * 2)(ctypes.addressof(self._registers), _MOST_REGISTER_BYTES)
        if self._ptrace(_GETREGSET, tid, note, ctypes.addressof(room)) < 0:
            return b""
        return self._registers.raw[: room[1] & ~7]

    def let_go(self) -> None:
        """Let all threads go on. Those that have not stopped go on when this process ends: so do
        that."""
        self._detach(self._stopped)
        self._stopped = {}
        for tid in self._late:
            self._await_late(tid)
        self._detach(self._stopped)

    def _await_late(self, tid: int) -> None:
        try:
            changed, status = os.waitpid(tid, _WALL | os.WNOHANG)
        except ChildProcessError:
            return
        if changed:
            self._note(tid, status)

    def _detach(self, tids: Iterable[int]) -> None:
        for tid in tids:
            if self._ptrace(_DETACH, tid, None, self._stopped[tid]) < 0:
                code = ctypes.get_errno()
                if code != errno.ESRCH:  # killed meanwhile
                    raise system_error(code)
