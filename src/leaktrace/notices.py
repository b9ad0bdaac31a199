"""Messages on stderr, separate from the reports. Control characters in what they quote are
escaped."""

from __future__ import annotations

import contextlib
import sys

from leaktrace.printable import printable


def notify(text: str) -> None:
    """Print one line on stderr. It may quote names from the target, so control characters are
    escaped. A closed or broken stderr is ignored."""
    if sys.stderr is None:
        return
    with contextlib.suppress(OSError):
        print(f"leaktrace: {printable(text)}", file=sys.stderr, flush=True)


def hint(text: str) -> None:
    """Print the line below an error: what to do."""
    if text and sys.stderr is not None:
        with contextlib.suppress(OSError):
            print(f"  hint: {printable(text)}", file=sys.stderr, flush=True)
