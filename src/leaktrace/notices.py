"""Messages on stderr, separate from the reports. Control characters in what they quote are
escaped."""

from __future__ import annotations

import contextlib
import select
import sys
from collections.abc import Callable, Iterator
from typing import TextIO

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
    with contextlib.suppress(OSError):
        print(f"leaktrace: {printable(text)}", file=sys.stderr, flush=True)


def hint(text: str) -> None:
    """Print the line below an error: what to do."""
    if text and _divert is not None:
        return  # there is one line
    if text and sys.stderr is not None and not would_block(sys.stderr):
        with contextlib.suppress(OSError):
            print(f"  hint: {printable(text)}", file=sys.stderr, flush=True)
