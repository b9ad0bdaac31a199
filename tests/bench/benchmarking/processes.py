"""The resources that a process uses, as the kernel accounts for them, and a core for the measured
process."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from benchmarking import REPOSITORY

BUILD = REPOSITORY / "build/bench"

_FLAGS = ("-O2", "-g", "-Wall", "-D_GNU_SOURCE", "-fno-omit-frame-pointer")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def build(source: str, *flags: str) -> Path:
    """Compile a program of tests/programs.

    With frame pointers, so that memleak, which follows them, walks stacks as deep as leaktrace's.
    """
    BUILD.mkdir(parents=True, exist_ok=True)
    output = BUILD / Path(source).stem
    subprocess.run(
        ["gcc", *_FLAGS, *flags, "-o", output, REPOSITORY / "tests/programs" / source],
        check=True,
        timeout=120,
    )
    return output


def reserve_core() -> int:
    """Keep this process, and with it the tracers it starts, off one core, and return that core."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        os.sched_setaffinity(0, cores[:-1])
    return cores[-1]


def pin(pid: int, core: int) -> None:
    os.sched_setaffinity(pid, {core})


def processor_s(pid: int, *, with_children: bool = False) -> float:
    """Processor time of all threads so far, user and system, in steps of 10 ms (/proc/PID/stat).

    With children: also of those that have ended and were waited for.
    """
    # The command's name, in parentheses, may hold spaces (proc(5)).
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11 : 15 if with_children else 13])) / _TICKS_PER_S


def first_thread_ns(pid: int) -> int:
    """Processor time of a process's first thread, to the nanosecond (/proc/PID/schedstat)."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])


def resident_mb(pid: int) -> tuple[float, float]:
    """Resident memory of a process: now, and at most so far. In MB of 1,000,000 bytes."""
    sizes = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    now_kib, most_kib = (int(sizes[name].split()[0]) for name in ("VmRSS", "VmHWM"))
    return now_kib * 1024 / 1e6, most_kib * 1024 / 1e6


def map_memory_mb(pid: int) -> float:
    """Kernel memory of the BPF maps that a process holds, from fdinfo (memlock)."""
    maps: dict[str, int] = {}
    for entry in Path(f"/proc/{pid}/fdinfo").iterdir():
        try:
            fields = dict(line.split(":", 1) for line in entry.read_text().splitlines())
        except (FileNotFoundError, ValueError):
            continue  # closed since it was listed, or of another kind
        if "map_id" in fields:
            maps[fields["map_id"]] = int(fields["memlock"])
    return sum(maps.values()) / 1e6
