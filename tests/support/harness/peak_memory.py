"""How much memory and time a command takes.

The kernel's figure of a process begins with that of the program that it was before exec, which is
its parent's. So the command is started by a small process.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_LAUNCHER = """
import os, sys
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(child, 0)
code = os.waitstatus_to_exitcode(status)
print("took", code, usage.ru_maxrss, usage.ru_utime + usage.ru_stime, file=sys.stderr)
"""


@dataclass(frozen=True)
class Took:
    """What a command has taken, and what it said on stdout."""

    exit_code: int
    peak_kib: int
    cpu_s: float
    stdout: bytes
    stderr: str


def measured(
    words: Sequence[str | Path], env: Mapping[str, str] | None = None, deadline_s: float = 600
) -> Took:
    """Run a command, whose first word is a path, to its end."""
    launcher = [sys.executable, "-S", "-E", "-c", _LAUNCHER]
    command = [*launcher, *map(str, words)]
    ended = subprocess.run(command, capture_output=True, env=env, timeout=deadline_s, check=True)
    said, _, figures = ended.stderr.decode().rpartition("took ")
    code, peak_kib, cpu_s = figures.split()
    return Took(int(code), int(peak_kib), float(cpu_s), ended.stdout, said)
