"""What is said beside the reports, on stderr: never in the way of them, and never to be fooled."""

from __future__ import annotations

import contextlib
import sys

from leaktrace.printable import printable


def tell(text: str) -> None:
    """One line on stderr. Names in it may come from the target: no control characters get through.
    A stderr that is closed is no reason to stop."""
    if sys.stderr is None:
        return
    with contextlib.suppress(OSError):
        print(f"leaktrace: {printable(text)}", file=sys.stderr, flush=True)


def hint(text: str) -> None:
    """The line below an error: what to do."""
    if text and sys.stderr is not None:
        with contextlib.suppress(OSError):
            print(f"  hint: {printable(text)}", file=sys.stderr, flush=True)
