"""A target program and the protocol with it (tests/programs/scenario.h)."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from harness.lines import DEADLINE_S, Lines


class Target:
    """A running target. As a context manager it is always killed at the end, by pid."""

    def __init__(self, argv: Sequence[str | Path], env: Mapping[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [str(word) for word in argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **(env or {})},
        )
        assert self.process.stdout is not None
        self._output = Lines(self.process.stdout, f"target {argv[0]}")

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def seen(self) -> list[str]:
        """The lines that were read until now."""
        return self._output.seen

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        with contextlib.suppress(BrokenPipeError):
            assert self.process.stdin is not None
            self.process.stdin.close()
        self.process.wait(DEADLINE_S)

    def await_ready(self) -> Self:
        self._output.until(lambda line: line == "ready")
        return self

    def send(self, line: str = "go") -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def await_done(self) -> tuple[int, ...]:
        """The target's own account, e.g. (bytes, count); () when it gives none."""
        line = self._output.until(lambda line: line.startswith("done"))
        return tuple(int(number) for number in line.split()[1:])

    def do(self, command: str = "go") -> tuple[int, ...]:
        """Send it a command, and wait until the work is done."""
        self.send(command)
        return self.await_done()

    def run_out(self) -> tuple[list[str], int]:
        """Let it run to its end: every line that it has written, and its exit status."""
        status = self.end()
        self._output.rest()
        return self._output.seen, status

    def end(self) -> int:
        """Let it run to its end; its exit status (negative: the signal that killed it)."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        return self.process.wait(DEADLINE_S)
