"""Signals to a run, turned into something a selector can wait for.

SIGUSR1 asks for a report now. SIGINT, SIGTERM and SIGHUP request a final report and an orderly
end. A second signal ends the run without waiting for that report. The first Ctrl-C of a terminal is
left to a command that leaktrace runs there, which gets it, too. Sources: signal(7), termios(3),
signalfd(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import struct
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Self

_SIGSET_BYTES, _SIGINFO_BYTES = 128, 128
_WAKEUPS = 4096  # bytes that are read at once, one for each signal
_SI_KERNEL = 0x80  # sigaction(2): sent by the kernel, as for a terminal
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
REPORT_NOW = signal.SIGUSR1


@contextlib.contextmanager
def held_back() -> Iterator[set[int]]:
    """While entered, this thread gets none of these signals; they are delivered afterwards.

    A thread or process that is started meanwhile inherits this. Yields the signals that were
    blocked before.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield before
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class NothingToEndError(BaseException):
    """A signal came while there was nothing to clean up.

    Not an Exception, so that `except Exception` doesn't take it for a failure of the interrupted
    code.
    """


class Interrupts:
    """While entered, a signal makes `fileno()` readable and `received` true."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._raises = False
        self._is_report_asked = False
        self._first: FirstInterrupt | None = None
        self._read_end, self._write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._before: dict[signal.Signals, object] = {}

    def fileno(self) -> int:
        return self._read_end

    def __enter__(self) -> Self:
        for number in ENDING:
            # nohup(1) ignores SIGHUP on purpose: ignored signals stay ignored.
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._on_signal)
        self._before[REPORT_NOW] = signal.signal(REPORT_NOW, self._on_report_asked)
        # Python's handlers run between two instructions of the main thread. A signal that comes
        # right before it waits, or to another thread, would not wake it. The byte in this pipe
        # does.
        self._wakeup_before = signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        return self

    def leave_first_to_command(self, pid: int, is_running: Callable[[], bool]) -> None:
        """From now on, a Ctrl-C that this command gets, too, is left to it: it may take its time to
        end by it, and is traced until then. The next one ends the run."""
        if signal.SIGINT in self._before:  # else it is ignored
            self._first = FirstInterrupt(pid, is_running)

    def filenos(self) -> list[int]:
        """Readable when a signal has come."""
        return [self._read_end, *([] if self._first is None else [self._first.fileno()])]

    def was_left_to_command(self) -> bool:
        """Whether a Ctrl-C has come that the command got, too. Any other SIGINT counts as
        received."""
        first = self._first
        came = None if first is None else first.take()
        if first is None or came is None:
            return False
        first.close()
        self._first = None
        if came:
            return True
        self._on_signal(signal.SIGINT, None)
        return False

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)
        if self._raises:
            self._raises = False
            raise NothingToEndError

    def _on_report_asked(self, _number: int, _frame: FrameType | None) -> None:
        self._is_report_asked = True

    def take_report_request(self) -> bool:
        """Whether a report was asked for (SIGUSR1) since the last call. From now on `fileno()` is
        readable when another signal comes, so call it before `received` is looked at. Signals that
        others handle (SIGUSR2: session/marks.py) make it readable, too."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self._read_end, _WAKEUPS):
                pass
        asked, self._is_report_asked = self._is_report_asked, False
        return asked

    @contextlib.contextmanager
    def raised(self) -> Iterator[None]:
        """For code that takes long and needs no cleanup: the first signal raises NothingToEndError
        at once, also one that came before."""
        self._raises = self.received is None
        try:
            if self.received is not None:
                raise NothingToEndError
            yield
        finally:
            self._raises = False

    def is_received(self) -> bool:
        """Whether the run must end."""
        return self.received is not None

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        if self._first is not None:
            self._first.close()
            self._first = None
        signal.set_wakeup_fd(self._wakeup_before)
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        os.close(self._read_end)
        os.close(self._write_end)


class FirstInterrupt:
    """The next SIGINT, which is blocked until `close`. Python's handlers aren't told who has sent
    it, signalfd(2) is."""

    def __init__(self, pid: int, is_running: Callable[[], bool]) -> None:
        self._pid = pid
        self._is_running = is_running
        libc = ctypes.CDLL(None, use_errno=True)
        mask = ctypes.create_string_buffer(_SIGSET_BYTES)
        libc.sigemptyset(mask)
        libc.sigaddset(mask, int(signal.SIGINT))
        self._before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        self._descriptor = int(libc.signalfd(-1, mask, os.O_NONBLOCK | os.O_CLOEXEC))

    def fileno(self) -> int:
        return self._descriptor

    def take(self) -> bool | None:
        """Whether it came from the terminal, to the command, too; None: it has not come."""
        try:
            told = os.read(self._descriptor, _SIGINFO_BYTES)
        except BlockingIOError:
            return None
        (code,) = struct.unpack_from("i", told, 8)  # ssi_code of struct signalfd_siginfo
        return code == _SI_KERNEL and self._is_running() and self._is_in_foreground()

    def _is_in_foreground(self) -> bool:
        """Whether Ctrl-C on the terminal goes to the command's process group."""
        try:
            with open("/dev/tty", "rb", buffering=0) as terminal:  # noqa: PTH123
                return os.tcgetpgrp(terminal.fileno()) == os.getpgid(self._pid)
        except OSError:  # there is no terminal, or no command
            return False

    def close(self) -> None:
        os.close(self._descriptor)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._before)
