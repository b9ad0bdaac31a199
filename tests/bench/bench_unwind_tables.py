"""The time that unwind tables take: to build, to read from the cache, to lay out.

    PYTHONPATH=src python tests/bench/bench_unwind_tables.py [OBJECT...]

Figures are the best of three runs, to show whether something got slower. Nothing is asserted here.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from leaktrace.elf.object import ElfObject
from leaktrace.errors import LeaktraceError
from leaktrace.unwind.cache import TableCache
from leaktrace.unwind.table import UnwindTable, compile_object

RUNS = 3
LIBRARIES = ("libc.so.6", "libstdc++.so.6", "libLLVM")


def library(name: str) -> Path | None:
    """The first library known to the dynamic loader whose name begins with this."""
    ldconfig = shutil.which("ldconfig", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if not ldconfig:
        return None
    listed = subprocess.run([ldconfig, "-p"], capture_output=True, text=True, check=True).stdout
    for line in listed.splitlines():
        entry, _, path = line.partition(" => ")
        if entry.strip().startswith(name) and "x86-64" in entry:
            return Path(path)
    return None


def default_objects() -> list[Path]:
    python = Path(shutil.which("python3", path="/usr/bin") or sys.executable).resolve()
    found = (library(name) for name in LIBRARIES)
    return [*(path for path in found if path), python]


def best_s(action: Callable[[ElfObject], UnwindTable], elf: ElfObject) -> float:
    """Seconds of the fastest of some runs."""
    durations = []
    for _ in range(RUNS):
        begin = time.perf_counter()
        action(elf)
        durations.append(time.perf_counter() - begin)
    return min(durations)


def main() -> None:
    objects = [Path(argument) for argument in sys.argv[1:]] or default_objects()
    print(f"{'object':28} {'rows':>9} {'MB':>6} {'none':>5} {'build s':>8} {'cached s':>9}")
    for path in objects:
        with tempfile.TemporaryDirectory() as home:
            cache = TableCache(Path(home))
            try:
                with ElfObject.open(path) as elf:
                    build_s = best_s(compile_object, elf)
                    table = cache.table_for(elf)
                    cached_s = best_s(cache.table_for, elf)
            except LeaktraceError as error:
                print(f"{path.name:28} {error.message}")
                continue
            size_mb = (table.rows.nbytes + 8 * len(table.pages)) / 1e6
            without_rule = sum(table.inexpressible.values())
            print(
                f"{path.name:28} {len(table.rows):9,} {size_mb:6.1f} {without_rule:5}"
                f" {build_s:8.3f} {cached_s:9.4f}"
            )


if __name__ == "__main__":
    main()
