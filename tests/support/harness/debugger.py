"""gdb, attached to a target that tests trace as well."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from harness.lines import DEADLINE_S, Lines


class Debugger:
    """A gdb that stops the target when it attaches, and detaches at `leave`."""

    def __init__(self, gdb: str, pid: int) -> None:
        self._target = pid
        self.process = subprocess.Popen(
            [gdb, "-q", "-nx", "-p", str(pid), "-ex", "set confirm off"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "DEBUGINFOD_URLS": ""},
        )
        assert self.process.stdout is not None
        self._output = Lines(self.process.stdout, "gdb")

    @property
    def pid(self) -> int:
        return self.process.pid

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
        self.process.wait(DEADLINE_S)

    def _tell(self, *commands: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("".join(f"{command}\n" for command in commands).encode())
        self.process.stdin.flush()

    def run_with_breakpoint(self, address: int) -> None:
        """Let the target run with a breakpoint inserted."""
        self._tell(f"break *{address:#x}", r"echo \ncontinuing\n", "continue")
        self._output.until(lambda line: line.endswith("continuing"))
        deadline = time.monotonic() + DEADLINE_S
        while self._state() == "t":  # a tracing stop
            assert time.monotonic() < deadline, self._output.seen
            time.sleep(0.01)

    def _state(self) -> str:
        found = re.search(r"^State:\s+(\S)", Path(f"/proc/{self._target}/status").read_text(), re.M)
        assert found is not None
        return found[1]

    def leave(self) -> None:
        """Stop the target, remove the breakpoint, detach, and end."""
        self.process.send_signal(signal.SIGINT)
        self._output.until(lambda line: "SIGINT" in line)
        self._tell("delete", "detach", "quit")
        self.process.wait(DEADLINE_S)
