"""How what a machine offers is told, and where it is read from.

Whatever can be read from a file is read through a `Machine`, so that a test can describe another
machine as a directory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

AS_ROOT = "run as root: sudo leaktrace …"


class State(StrEnum):
    """What a probe found."""

    OK = "ok"
    MISSING = "missing"
    LIMITED = "limited"  # works, with less precision or at a higher cost
    UNKNOWN = "unknown"  # can't be told, e.g. because it takes root to ask


@dataclass(frozen=True)
class Feature:
    """One thing leaktrace uses, whether it is there, and what to do where it isn't."""

    name: str
    state: State
    detail: str = ""  # what was found
    advice: str = ""  # what the user can do, one line
    required: bool = False  # tracing a process can't work without it

    @property
    def blocks(self) -> bool:
        """Whether this alone keeps leaktrace from tracing a process."""
        return self.required and self.state is State.MISSING


@dataclass(frozen=True)
class Machine:
    """The machine as files below `root`. Only the one at "/" can be asked for more than files."""

    root: Path = Path("/")

    @property
    def is_running(self) -> bool:
        """Whether system calls asked now are answered by this very machine."""
        return self.root == Path("/")

    def path(self, path: str) -> Path:
        """`path`, absolute on the machine, where it lies for us."""
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
