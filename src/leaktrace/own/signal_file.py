"""A signal that only makes a file readable: nothing is interrupted, and no other signal is touched.

Python's own handlers would also wake what waits for the signals that end a run (interrupts.py).
Source: signalfd(2).
"""

from __future__ import annotations

import ctypes
import os
import signal

_SIGSET_BYTES, _SIGINFO_BYTES = 128, 128


class SignalFile:
    """The signal is blocked until `close`; processes that are started meanwhile inherit that."""

    def __init__(self, number: signal.Signals) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        mask = ctypes.create_string_buffer(_SIGSET_BYTES)
        libc.sigemptyset(mask)
        libc.sigaddset(mask, int(number))
        self._before = signal.pthread_sigmask(signal.SIG_BLOCK, [number])
        self._descriptor = int(libc.signalfd(-1, mask, os.O_NONBLOCK | os.O_CLOEXEC))
        if self._descriptor < 0:
            code = ctypes.get_errno()
            signal.pthread_sigmask(signal.SIG_SETMASK, self._before)
            raise OSError(code, os.strerror(code))

    def fileno(self) -> int:
        return self._descriptor

    def take(self) -> bool:
        """Whether the signal has come since the last call."""
        try:
            return bool(os.read(self._descriptor, _SIGINFO_BYTES))
        except BlockingIOError:
            return False

    def close(self) -> None:
        self.take()  # so that it isn't delivered now
        os.close(self._descriptor)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._before)
