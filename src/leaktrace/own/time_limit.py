"""A limit for work that can't be interrupted otherwise, such as a regular expression."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class TimeIsUpError(BaseException):
    """Not an Exception, so that the interrupted code doesn't handle it."""


@contextlib.contextmanager
def cpu_limit(seconds: float) -> Iterator[None]:
    """Raises TimeIsUpError if the process takes more CPU time than that while this is entered.

    Python's regular expressions look for signals while they search. Time in which the process
    doesn't run doesn't count, so a busy machine changes nothing. In a thread other than the main
    one, which gets no signals, there is no limit.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(_number: int, _frame: FrameType | None) -> None:
        raise TimeIsUpError

    before = signal.signal(signal.SIGVTALRM, end)
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    finally:
        signal.signal(signal.SIGVTALRM, before)
