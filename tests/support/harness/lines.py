"""Lines of a pipe, collected by a thread so that neither end blocks the other."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from typing import IO

# Long enough to distinguish a hang from a slow machine; emulated ones are slower still.
DEADLINE_S = float(os.environ.get("LEAKTRACE_TEST_DEADLINE_S", "90"))


class Lines:
    """What a process writes, line by line. `seen` holds every line returned so far."""

    def __init__(self, stream: IO[bytes], name: str) -> None:
        self._stream = stream
        self._name = name
        self._queue: queue.Queue[str | None] = queue.Queue()
        self._ended = False
        self.seen: list[str] = []
        self._thread = threading.Thread(target=self._collect, daemon=True)
        self._thread.start()

    def _collect(self) -> None:
        for line in self._stream:
            self._queue.put(line.decode("utf-8", "surrogateescape").rstrip("\n"))
        self._queue.put(None)

    def next(self, deadline_s: float = DEADLINE_S) -> str | None:
        """The next line, or None at the end of the stream."""
        if self._ended:
            return None
        try:
            line = self._queue.get(timeout=deadline_s)
        except queue.Empty:
            raise AssertionError(f"{self._name} said nothing more; so far: {self.seen}") from None
        if line is None:
            self._ended = True
            return None
        self.seen.append(line)
        return line

    def until(self, wanted: Callable[[str], bool]) -> str:
        """The first line that satisfies the condition."""
        while (line := self.next()) is not None:
            if wanted(line):
                return line
        raise AssertionError(f"{self._name} ended without the line awaited: {self.seen}")

    def rest(self) -> list[str]:
        """All lines until the stream ends."""
        lines = []
        while (line := self.next()) is not None:
            lines.append(line)
        return lines
