"""The code of a running process, compared with the files that it comes from.

A uprobe is a breakpoint in the process's own copy of a page of code. A removed probe leaves no
difference; see proc(5) on /proc/PID/mem.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.lines import DEADLINE_S


@dataclass(frozen=True)
class Changed:
    """A byte of code that is not what its file says."""

    address: int
    path: str
    offset: int  # in the file
    memory: int
    file: int


def changed_bytes(pid: int) -> list[Changed]:
    """Every changed byte in all executable mappings of files."""
    found = []
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            fields = line.split(maxsplit=5)
            if "x" not in fields[1] or len(fields) < 6 or not fields[5].startswith("/"):
                continue
            start, end = (int(word, 16) for word in fields[0].split("-"))
            offset = int(fields[2], 16)
            with Path(f"/proc/{pid}/map_files/{start:x}-{end:x}").open("rb") as file:
                original = np.frombuffer(os.pread(file.fileno(), end - start, offset), np.uint8)
            text = os.pread(memory.fileno(), len(original), start)
            now = np.frombuffer(text, np.uint8)
            assert len(now) == len(original)
            for at in np.flatnonzero(now != original).tolist():
                found.append(
                    Changed(start + at, fields[5], offset + at, int(now[at]), int(original[at]))
                )
    return found


class Watch:
    """Reads single bytes of a process's code, fast enough to see probes attached and detached."""

    def __init__(self, memory: int, bytes_: list[Changed]) -> None:
        self._memory = memory
        self._bytes = [(one.address, bytes([one.memory])) for one in bytes_]

    @classmethod
    @contextmanager
    def of(cls, pid: int, bytes_: list[Changed]) -> Iterator[Watch]:
        memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
        try:
            yield cls(memory, bytes_)
        finally:
            os.close(memory)

    def count(self) -> int:
        """How many of the bytes are changed now."""
        return sum(os.pread(self._memory, 1, address) == value for address, value in self._bytes)

    def await_any(self) -> None:
        """Wait for the first probe. Here and below without a pause: timing matters."""
        self._await(lambda: self.count() > 0)

    def await_all(self) -> None:
        self._await(lambda: self.count() == len(self._bytes))

    def await_fewer(self) -> None:
        """Wait until the first of them is removed."""
        self._await(lambda: self.count() < len(self._bytes))

    def await_none(self) -> None:
        self._await(lambda: self.count() == 0)

    @staticmethod
    def _await(happened: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not happened():
            assert time.monotonic() < deadline, "the probes stay as they are"
