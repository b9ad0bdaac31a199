"""Every process of one run of leaktrace, whatever its parent is: found by a variable in the
environment, which they all inherit."""

from __future__ import annotations

import os
import select
import time
import uuid
from pathlib import Path

from harness.lines import DEADLINE_S

_NAME = "LEAKTRACE_TEST_RUN"


class Mark:
    """`env` goes to leaktrace; what it starts inherits it."""

    def __init__(self) -> None:
        self._word = uuid.uuid4().hex
        self._seen: dict[int, int] = {}  # pidfds: one that ends has no environment, but probes
        self.env = {_NAME: self._word}

    def __del__(self) -> None:
        for pidfd in self._seen.values():
            os.close(pidfd)

    def processes(self) -> list[int]:
        """Those that have not ended; zombies have."""
        wanted = f"{_NAME}={self._word}".encode()
        for directory in Path("/proc").iterdir():
            if directory.name.isdigit() and int(directory.name) not in self._seen:
                try:
                    environment = (directory / "environ").read_bytes()
                    if wanted in environment.split(b"\0"):
                        self._seen[int(directory.name)] = os.pidfd_open(int(directory.name))
                except OSError:
                    continue  # it has ended since
        return [pid for pid, pidfd in self._seen.items() if not _is_readable(pidfd)]

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


def _is_readable(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))
