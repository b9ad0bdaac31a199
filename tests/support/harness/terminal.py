"""leaktrace in a terminal of its own."""

from __future__ import annotations

import codecs
import contextlib
import os
import pty
import re
import select
import signal
import termios
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from harness.lines import DEADLINE_S
from harness.tracer import COMMAND, DEFAULT_SIGNALS, tracer_environment

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class InTerminal:
    """leaktrace in a terminal of its own, as its session's leader and in the foreground."""

    def __init__(
        self,
        *arguments: str | Path,
        folder: Path | None = None,
        prefix: Sequence[str] = (),
        size: tuple[int, int] | None = None,
    ) -> None:
        """`folder`: where it runs; `prefix`: a command that runs it; `size`: lines and columns of
        the terminal."""
        words = [*prefix, *DEFAULT_SIGNALS, *COMMAND, *map(str, arguments)]
        environment = tracer_environment({"TERM": "xterm-256color", "LC_ALL": "C.UTF-8"})
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            if folder is not None:
                os.chdir(folder)
            if size is not None:
                termios.tcsetwinsize(0, size)
            os.execvpe(words[0], words, environment)
        self.shown = ""  # without colours
        self.painted = ""  # with them
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.close(self._terminal)

    def press(self, keys: bytes) -> None:
        os.write(self._terminal, keys)

    def until(self, text: str) -> None:
        """Read what it shows until it has shown this, whatever its colours."""
        deadline = time.monotonic() + DEADLINE_S
        while text not in self.shown:
            assert time.monotonic() < deadline, self.shown
            self._read()

    def watch(self, seconds: float) -> None:
        """Read what it shows for so long."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if select.select([self._terminal], [], [], left)[0] and not self._read():
                return

    def _read(self) -> bool:
        try:
            piece = os.read(self._terminal, 4096)
        except OSError:  # the last one has closed the terminal
            return False
        text = self._decoder.decode(piece)
        self.painted += text
        self.shown = _COLOUR.sub("", self.shown + text)
        return bool(piece)

    def modes(self) -> list[object]:
        """Those of the terminal (termios(3))."""
        modes: list[object] = termios.tcgetattr(self._terminal)
        return modes

    def finish(self) -> int:
        """Its exit code, once it has ended."""
        with contextlib.suppress(OSError):  # the last one has closed the terminal
            while self._read():
                pass
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status)
