"""Signals that end a run, turned into something a selector can wait for.

SIGINT, SIGTERM and SIGHUP request a final report and an orderly end. A second signal ends the run
without waiting for that report. The first Ctrl-C of a terminal is left to a command that leaktrace
runs there, which gets it, too. Source: signal(7), termios(3).
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Self

_PIPE_BYTES = 65_536
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


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
        self._shares_terminal = False
        self._was_left = False
        self._read_end, self._write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._before: dict[signal.Signals, object] = {}

    def fileno(self) -> int:
        return self._read_end

    def __enter__(self) -> Self:
        for number in ENDING:
            # nohup(1) ignores SIGHUP on purpose: ignored signals stay ignored.
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._on_signal)
        # Python's handlers run between two instructions of the main thread. A signal that comes
        # right before it waits, or to another thread, would not wake it. The byte in this pipe
        # does.
        self._wakeup_before = signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        return self

    def leave_first_to_command(self) -> None:
        """From now on a command runs in this process group. It gets the Ctrl-C of the terminal, and
        may take its time to end by it: it is traced until then. The next Ctrl-C ends the run."""
        self._shares_terminal = True

    def was_left_to_command(self) -> bool:
        """Whether that Ctrl-C has come since the last call."""
        if not self._was_left:
            return False
        self._was_left = False
        with contextlib.suppress(BlockingIOError):
            os.read(self._read_end, _PIPE_BYTES)
        return True

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._shares_terminal and _is_in_foreground():
            self._shares_terminal = False
            self._was_left = True
            return
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)
        if self._raises:
            self._raises = False
            raise NothingToEndError

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
        signal.set_wakeup_fd(self._wakeup_before)
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        os.close(self._read_end)
        os.close(self._write_end)


def _is_in_foreground() -> bool:
    """Whether Ctrl-C on the terminal goes to this process group."""
    try:
        with open("/dev/tty", "rb", buffering=0) as terminal:  # noqa: PTH123
            return os.tcgetpgrp(terminal.fileno()) == os.getpgrp()
    except OSError:  # there is no terminal
        return False
