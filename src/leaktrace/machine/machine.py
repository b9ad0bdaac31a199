"""A machine, and one feature of it.

Everything that can be read from a file is read through a `Machine`, so that a test can describe
another machine as a directory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

ONLY_LOCALLY = "can be tested only on that machine"  # about another machine's directory


class State(StrEnum):
    """What a probe found."""

    OK = "ok"
    MISSING = "missing"
    LIMITED = "limited"  # works, with less precision or at a higher cost
    UNKNOWN = "unknown"  # can't be found out, for example because only root can ask


@dataclass(frozen=True)
class Feature:
    """One thing that leaktrace uses, whether the machine has it, and what to do if not."""

    name: str
    state: State
    detail: str = ""  # what was found
    advice: str = ""  # what the user can do, one line
    required: bool = False  # tracing a process can't work without it

    @property
    def blocks(self) -> bool:
        """Whether its absence alone prevents tracing a process."""
        return self.required and self.state is State.MISSING


@dataclass(frozen=True)
class Machine:
    """The machine whose files are below `root`. Only the one at "/" can be asked for more."""

    root: Path = Path("/")

    @property
    def is_running(self) -> bool:
        """Whether it is the machine that runs this code, so that system calls can be tried."""
        return self.root == Path("/")

    def path(self, path: str) -> Path:
        """Where `path`, absolute on the machine, is for this process."""
        return self.root / path.lstrip("/")

    def read(self, path: str) -> str | None:
        """The text of a file without surrounding white space; None where it can't be read."""
        try:
            return self.path(path).read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            return None

    def find(self, *patterns: str) -> Iterator[Path]:
        """The existing paths that match the patterns, pattern by pattern."""
        for pattern in patterns:
            yield from sorted(self.root.glob(pattern.lstrip("/")))
