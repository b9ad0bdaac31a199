"""Messages on stderr, separate from the reports. Control characters in what they quote are
escaped."""

from __future__ import annotations

import contextlib
import select
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TextIO

from leaktrace.own.interrupts import held_back
from leaktrace.printable import printable

_PATIENCE_MS = 500
_stopped: set[TextIO] = set()  # streams that didn't take the last line
_divert: Callable[[str], None] | None = None


@contextlib.contextmanager
def diverted(take: Callable[[str], None]) -> Iterator[None]:
    """While entered, messages go to `take` instead of stderr, which is the terminal of a live
    view."""
    global _divert  # noqa: PLW0603 (as stderr, there is one)
    before, _divert = _divert, take
    try:
        yield
    finally:
        _divert = before


_progress = threading.Lock()  # held while a line about progress may be shown
_is_shown = False
_ERASE = "\r\x1b[K"
_SILENT_S, _STEP_S = 1.0, 0.5


@contextlib.contextmanager
def progress(what: str) -> Iterator[None]:
    """While entered: once it has taken a second, show on stderr what takes so long, if that is a
    terminal. The line is erased afterwards, and before any other message. No report may be written
    meanwhile."""
    stream = sys.stderr
    if stream is None or _divert is not None or not stream.isatty():
        yield
        return
    done = threading.Event()
    with held_back():  # signals are for the main thread
        thread = threading.Thread(target=_show_progress, args=(what, stream, done), daemon=True)
        thread.start()
    try:
        yield
    finally:
        done.set()
        with _progress:
            _erase(stream)


def _show_progress(what: str, stream: TextIO, done: threading.Event) -> None:
    global _is_shown  # noqa: PLW0603
    begin_s = time.monotonic()
    wait_s = _SILENT_S
    while not done.wait(wait_s):
        wait_s = _STEP_S
        with _progress:
            if not done.is_set() and not would_block(stream):
                _is_shown = True
                seconds = int(time.monotonic() - begin_s)
                with contextlib.suppress(OSError, ValueError):
                    stream.write(f"{_ERASE}leaktrace: {printable(what)}, {seconds} s")
                    stream.flush()


def _erase(stream: TextIO) -> None:
    global _is_shown  # noqa: PLW0603
    if _is_shown:
        _is_shown = False
        with contextlib.suppress(OSError, ValueError):
            stream.write(_ERASE)
            stream.flush()


def would_block(stream: TextIO) -> bool:
    """Whether a line written to it would wait for a reader that doesn't read. Tracing goes on
    without that line."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), select.POLLOUT)
        # A terminal says that it takes nothing while it has 256 characters to show, which is over
        # in a moment. One that has stopped is waited for once.
        is_stopped = not poll.poll(0 if stream in _stopped else _PATIENCE_MS)
    except (OSError, ValueError):  # it is no file, or closed
        return False
    if is_stopped:
        _stopped.add(stream)
    else:
        _stopped.discard(stream)
    return is_stopped


def notify(text: str) -> None:
    """Print one line on stderr. It may quote names from the target, so control characters are
    escaped. A closed or broken stderr is ignored."""
    if _divert is not None:
        _divert(printable(text))
        return
    if sys.stderr is None or would_block(sys.stderr):
        return
    with _progress, contextlib.suppress(OSError):
        _erase(sys.stderr)
        print(f"leaktrace: {printable(text)}", file=sys.stderr, flush=True)


def hint(text: str) -> None:
    """Print the line below an error: what to do."""
    if text and _divert is not None:
        return  # there is one line
    if text and sys.stderr is not None and not would_block(sys.stderr):
        with contextlib.suppress(OSError):
            print(f"  hint: {printable(text)}", file=sys.stderr, flush=True)
