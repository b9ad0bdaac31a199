"""Work of some seconds beside the main thread, which takes in events meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable

from leaktrace.own.interrupts import held_back

_PUMP_S = 0.05


def in_background(work: Callable[[Callable[[], bool]], None], pump: Callable[[], None]) -> None:
    """Do `work(is_abandoned)` in another thread, and `pump` meanwhile. If that raises, the work is
    abandoned, and has ended when the exception gets through."""
    is_over = threading.Event()
    worker = threading.Thread(target=work, args=(is_over.is_set,))
    try:
        with held_back():  # signals go to the main thread
            worker.start()
    except RuntimeError:  # no more threads are allowed
        work(is_over.is_set)
        return
    try:
        while worker.is_alive():
            worker.join(_PUMP_S)
            pump()
    finally:
        is_over.set()
        worker.join()
