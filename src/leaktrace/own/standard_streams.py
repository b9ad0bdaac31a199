"""Standard input, output and error that are closed when leaktrace starts.

The next file that is opened would get the number of a closed stream, and a library that writes to
that stream would write into the file. So these numbers are taken first, by a descriptor that can
neither be read nor written. It is closed again in programs that leaktrace executes.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Any

from leaktrace.errors import OutputError

_ADVICE = "open it, or name a file with --output"


class _Closed(io.RawIOBase):
    """The replacement of a closed stream: writing to it is ignored, or fails."""

    def __init__(self, descriptor: int, *, silent: bool) -> None:
        self._descriptor = descriptor
        self._silent = silent

    def fileno(self) -> int:
        return self._descriptor

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:  # noqa: ANN401 (a buffer: no name for it in 3.11)
        """Raises OutputError, unless it is silent."""
        if not self._silent:
            raise output_is_closed()
        return len(data)


def output_is_closed() -> OutputError:
    """The error where standard output is needed."""
    return OutputError("standard output is closed", _ADVICE)


def is_closed(stream: io.TextIOBase | Any) -> bool:  # noqa: ANN401 (as sys.stdout may be anything)
    """Whether a standard stream was closed when leaktrace started."""
    return stream is None or isinstance(getattr(stream, "buffer", None), _Closed)


def reserve_closed_numbers() -> None:
    """Occupy the numbers of closed streams. Call it before any file is opened."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open("/", os.O_PATH | os.O_CLOEXEC)  # takes the lowest free number
    if sys.stdout is None:
        sys.stdout = io.TextIOWrapper(_Closed(1, silent=False), "utf-8", write_through=True)
    if sys.stderr is None:
        sys.stderr = io.TextIOWrapper(_Closed(2, silent=True), "utf-8", write_through=True)
