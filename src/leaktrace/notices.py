"""Messages on stderr, separate from the reports. Control characters in what they quote are
escaped."""

from __future__ import annotations

import contextlib
import select
import sys
from typing import TextIO

from leaktrace.printable import printable


def would_block(stream: TextIO) -> bool:
    """Whether a line written to it would wait for a reader that doesn't read. Tracing goes on
    without that line."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), select.POLLOUT)
        return not poll.poll(0)
    except (OSError, ValueError):  # it is no file, or closed
        return False


def notify(text: str) -> None:
    """Print one line on stderr. It may quote names from the target, so control characters are
    escaped. A closed or broken stderr is ignored."""
    if sys.stderr is None or would_block(sys.stderr):
        return
    with contextlib.suppress(OSError):
        print(f"leaktrace: {printable(text)}", file=sys.stderr, flush=True)


def hint(text: str) -> None:
    """Print the line below an error: what to do."""
    if text and sys.stderr is not None and not would_block(sys.stderr):
        with contextlib.suppress(OSError):
            print(f"  hint: {printable(text)}", file=sys.stderr, flush=True)
