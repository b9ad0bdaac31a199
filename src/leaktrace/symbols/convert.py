"""A separate program that converts the debug information of an object into a table of lines.

    python -m leaktrace.symbols.convert PARENT OBJECT TABLE

PARENT is the pid of the tracer; OBJECT and TABLE are numbers of inherited file descriptors. It is
separate from its user (lines.py) so that it starts quickly: it imports little but `symbolic`.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
from pathlib import Path

from symbolic.debuginfo import Archive
from symbolic.exceptions import SymbolicError

from leaktrace.symbols.parent_death import end_with

_MIN_MEMORY_BYTES = 512 << 20
_NICENESS = 5


def _convert(source: int, table: int) -> None:
    """Convert the object in the descriptor `source`, and write the table to `table`."""
    _limit_resources(os.fstat(source).st_size)
    archive = Archive.open(f"/proc/self/fd/{source}")
    for binary in archive.iter_objects():
        with os.fdopen(table, "wb") as out:
            binary.make_symcache().dump_into(out)
        return
    raise SystemExit("it contains no object")


def _limit_resources(file_size: int) -> None:
    """Take at most three quarters of the free memory, and be killed before the target is when
    memory runs out."""
    memory = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(memory["MemAvailable"].split()[0]) << 10
    limit = file_size + max(_MIN_MEMORY_BYTES, free // 4 * 3)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):  # /proc may be mounted read-only
        Path("/proc/self/oom_score_adj").write_text("1000")
    os.nice(_NICENESS)


if __name__ == "__main__":
    try:
        end_with(int(sys.argv[1]))
        _convert(int(sys.argv[2]), int(sys.argv[3]))
    except (SymbolicError, LookupError, OSError, MemoryError) as error:
        raise SystemExit(str(error) or type(error).__name__) from error
