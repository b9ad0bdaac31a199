"""Opens the parts of a tracer, which are closed again when one of them fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager


@contextmanager
def closed_on_failure() -> Iterator[ExitStack]:
    """A stack that is closed when the body raises anything, KeyboardInterrupt included. Otherwise
    it stays open, and its new owner closes it."""
    stack = ExitStack()
    try:
        yield stack
    except BaseException:
        stack.close()
        raise
