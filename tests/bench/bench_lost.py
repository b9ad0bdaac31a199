"""What it takes to find the blocks that nothing points to.

    python tests/bench/bench_lost.py [BLOCKS MIB]

A program holds a million blocks of 1 GiB in all, with two pointers each, and has forgotten every
50th. It is looked at without a stop, as reports do with --lost, with --holders, and with a stop
(--lost --stop).
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from benchmarking.processes import build, pin, processor_s, reserve_core, resident_mb
from benchmarking.results import Results, require_root
from harness.target import Target

from leaktrace.analysis.block_classes import BlockClass
from leaktrace.options import Limits, ProcessOptions, ProcessTarget
from leaktrace.process.held_blocks import AskedHolders
from leaktrace.process.instant_scan import scan_instant
from leaktrace.process.registers import RegisterReader
from leaktrace.process.scan import Scan, scan
from leaktrace.process.setup import open_tracer
from leaktrace.process.snapshot import blocks_of
from leaktrace.roots.module_data import FileTables
from leaktrace.targets.instant import take_instant
from leaktrace.targets.program_break import start_of_heap

ROUNDS = 3
MOST_CPU_S = 10.0
MOST_HOLDERS_CPU_S, MOST_HOLDERS_MB = 15.0, 500
MOST_MB = 150 + 32  # and 16 bytes for each of 2 million pointers
MOST_PAUSE_MS = 250.0
MOST_LESS_PERCENT = 3.0  # of its work that the program does less meanwhile
WORK_ROUNDS, ALONE_S = 7, 5.0  # a look takes about as long


class Work(NamedTuple):
    """How many pointers the program follows."""

    per_s: float
    per_own_s: float  # of its thread's processor time: what others take of the core is left out


def work_during(target: Target, what: Callable[[], object]) -> Work:
    """The work that the program does meanwhile."""
    own_before_s, before, began_s = worker_s(target.pid), target.do()[0], time.monotonic()
    what()
    done, took_s = target.do()[0] - before, time.monotonic() - began_s
    return Work(done / took_s, done / (worker_s(target.pid) - own_before_s))


def worker_s(pid: int) -> float:
    """Processor time of the thread that follows pointers (schedstat: nanoseconds)."""
    paths = [one / "schedstat" for one in Path(f"/proc/{pid}/task").iterdir()]
    return sum(int(one.read_text().split()[0]) for one in paths) / 1e9


def add_work(results: Results, alone: list[Work], meanwhile: list[Work]) -> None:
    """Each look is compared with the mean of the times before and after it. `alone`: those, one
    more. How much they differ from each other is the noise."""
    for name, index in (("", 0), (", per processor second of its own", 1)):
        pairs = [(one[index], other[index]) for one, other in pairwise(alone)]
        shares = [
            100 * one[index] / statistics.mean(pair)
            for one, pair in zip(meanwhile, pairs, strict=True)
        ]
        results.add(f"work that the program does meanwhile{name}", shares, "%")
        noise = [100 * abs(one / other - 1) for one, other in pairs]
        results.add("  that the work before and after a look differs", noise, "%")
    lost = 100 - statistics.median(
        100 * one.per_own_s / statistics.mean((before.per_own_s, after.per_own_s))
        for one, (before, after) in zip(meanwhile, pairwise(alone), strict=True)
    )
    results.add("work that it does less, per processor second", lost, "%", MOST_LESS_PERCENT)


def main() -> None:
    require_root()
    blocks, mib = map(int, sys.argv[1:3] or ("1000000", "1024"))
    results = Results("lost")
    core = reserve_core()
    results.title(f"{blocks:,} blocks, {mib:,} MiB, one in 50 lost")
    with Target([build("bench_lost.c", "-pthread"), str(blocks), str(mib)]) as target:
        target.await_ready()
        limits = Limits(max_allocs=blocks + blocks // 10)
        tracer = open_tracer(ProcessOptions(target=ProcessTarget((target.pid,)), limits=limits))
        tracer.arm()
        target.do()
        for thread in Path(f"/proc/{target.pid}/task").iterdir():
            pin(int(thread.name), core)
        cpu_s, took_s, found = [], [], 0
        own = tracer.program
        with closing(RegisterReader()) as registers:
            records = blocks_of(own, tracer.first)
            asked = AskedHolders(FileTables(), partial(blocks_of, own, tracer.first))
            held_mb = resident_mb(os.getpid())[0]
            alone = [work_during(target, lambda: time.sleep(ALONE_S))]
            meanwhile = []
            for _ in range(WORK_ROUNDS):
                before_s = processor_s(os.getpid())
                scans: list[Scan] = []

                def look(scans: list[Scan] = scans) -> None:
                    scans.append(scan(target.pid, records, 0, registers))

                meanwhile.append(work_during(target, look))
                cpu_s.append(processor_s(os.getpid()) - before_s)
                alone.append(work_during(target, lambda: time.sleep(ALONE_S)))
                took_s.append(scans[0].took_s)
                found = int((scans[0].classes >= BlockClass.INDIRECT).sum())
            lost_mb = resident_mb(os.getpid())[1] - held_mb
            holders_s = []
            for _ in range(ROUNDS):
                before_s = processor_s(os.getpid())
                one = scan(target.pid, records, 0, registers, holders=asked)
                holders_s.append(processor_s(os.getpid()) - before_s)
            assert one.held is not None
            holders_mb = resident_mb(os.getpid())[1] - held_mb
            held = int((one.held.of_block >= 0).sum())
        results.add("lost blocks that were found", found, "blocks")
        results.add("processor time of a look, of three passes", cpu_s, "s", MOST_CPU_S)
        results.add("time of a look, with the pauses between passes", took_s, "s")
        add_work(results, alone, meanwhile)
        results.add("memory beside the records", lost_mb, "MB", 150 + 32)
        results.add("blocks whose holder is found, with --holders", held, "blocks")
        results.add("processor time of a look with --holders", holders_s, "s", MOST_HOLDERS_CPU_S)
        results.add("memory beside the records with --holders", holders_mb, "MB", MOST_HOLDERS_MB)
        pauses_ms, took_s = [], []
        for _ in range(ROUNDS):
            began = time.monotonic()
            instant = take_instant(target.pid, 10_000)
            pauses_ms.append(instant.paused_s * 1000)
            start = start_of_heap(target.pid)
            one = scan_instant(instant, start, records, blocks_of(own, tracer.first), 0)
            took_s.append(time.monotonic() - began)
            found = int((one.classes >= BlockClass.INDIRECT).sum())
            copied_mb = instant.copy.size_bytes / 1e6
            del instant
        results.title("the same, with --stop")
        results.add("lost blocks that were found", found, "blocks")
        results.add("the program is stopped", pauses_ms, "ms", MOST_PAUSE_MS)
        results.add("time of a look", took_s, "s")
        results.add("memory that is copied", copied_mb, "MB")
        results.add(
            "memory beside the records",
            resident_mb(os.getpid())[1] - held_mb,
            "MB",
            1.25 * copied_mb + MOST_MB,
        )
        results.remark(f"load average {os.getloadavg()[0]:.1f}, {os.cpu_count()} processors")
        tracer.close()
    results.save()


if __name__ == "__main__":
    main()
