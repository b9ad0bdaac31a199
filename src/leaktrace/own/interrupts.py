"""Signals that end a run, turned into something a selector can wait for.

SIGINT, SIGTERM and SIGHUP request a final report and an orderly end. A second signal ends the run
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

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
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
