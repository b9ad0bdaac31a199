"""Every process of one run of leaktrace, whoever has become its parent: by a word in the
environment, which they all inherit."""

from __future__ import annotations

import time
import uuid
from pathlib import Path

from harness.lines import DEADLINE_S

_NAME = "LEAKTRACE_TEST_RUN"


class Mark:
    """`env` goes to leaktrace; what it starts inherits it."""

    def __init__(self) -> None:
        self._word = uuid.uuid4().hex
        self.env = {_NAME: self._word}

    def processes(self) -> list[int]:
        """Those that live, zombies left out."""
        wanted = f"{_NAME}={self._word}".encode()
        found = []
        for directory in Path("/proc").iterdir():
            if directory.name.isdigit():
                try:
                    environment = (directory / "environ").read_bytes()
                except OSError:
                    continue  # it has ended since
                if wanted in environment.split(b"\0"):
                    found.append(int(directory.name))
        return found

    def keeper(self) -> int:
        """The process that holds the probes."""
        (pid,) = [
            pid
            for pid in self.processes()
            if Path(f"/proc/{pid}/comm").read_text() == "probe-keeper\n"
        ]
        return pid

    def await_end(self) -> None:
        """Wait until none of them is left."""
        deadline = time.monotonic() + DEADLINE_S
        while left := self.processes():
            assert time.monotonic() < deadline, f"still there: {left}"
            time.sleep(0.002)
