"""Signals that end a run, turned into something a selector can wait for.

SIGINT, SIGTERM and SIGHUP ask for a last report and an orderly end. A second one ends the run
without waiting for that report. Source: signal(7).
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Self

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def held_back() -> Iterator[set[int]]:
    """While entered, this thread gets none of these signals; those that came are there after it.

    A thread or process that is started meanwhile goes on so. Yields what was blocked before.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield before
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class NothingToEndError(BaseException):
    """A signal came while there was nothing to end in order.

    No Exception, so that nobody takes it for a failure of what it interrupts.
    """


class Interrupts:
    """While entered, a signal makes `fileno()` readable and `received` true."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._raises = False
        self._read_end, self._write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._before: dict[signal.Signals, object] = {}

    def fileno(self) -> int:
        return self._read_end

    def __enter__(self) -> Self:
        for number in ENDING:
            # nohup(1) ignores SIGHUP on purpose: leave what is ignored ignored.
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._on_signal)
        # Python's handlers run between two instructions of the main thread. A signal that comes
        # right before it waits, or to another thread, would not wake it: that one byte does, at
        # once.
        self._wakeup_before = signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        return self

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)
        if self._raises:
            self._raises = False
            raise NothingToEndError

    @contextlib.contextmanager
    def raised(self) -> Iterator[None]:
        """For what takes long and needs no end in order: the first signal raises NothingToEndError,
        wherever it comes, once it is received."""
        self._raises = self.received is None
        try:
            if self.received is not None:
                raise NothingToEndError
            yield
        finally:
            self._raises = False

    def is_received(self) -> bool:
        """Whether the run is to end."""
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
