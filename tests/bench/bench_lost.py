"""What it takes to find the blocks that nothing points to.

    python tests/bench/bench_lost.py [BLOCKS MIB]

A program holds a million blocks of 1 GiB in all, with two pointers each, and has forgotten every
50th. It is looked at without a stop, as reports do with --lost, with --holders, and with a stop
(--lost --stop).
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import closing
from functools import partial

from benchmarking.processes import build, pin, processor_s, reserve_core, resident_mb
from benchmarking.results import Results, require_root
from harness.target import Target

from leaktrace.analysis.block_classes import BlockClass
from leaktrace.options import Limits, ProcessOptions, ProcessTarget
from leaktrace.process.held_blocks import AskedHolders
from leaktrace.process.instant_scan import scan_instant
from leaktrace.process.registers import RegisterReader
from leaktrace.process.scan import scan
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
LEAST_SHARE = 0.97  # of its work that the program still does meanwhile


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
        pin(target.pid, core)

        def followed_per_s(seconds: float) -> float:
            before, began = target.do()[0], time.monotonic()
            time.sleep(seconds)
            return (target.do()[0] - before) / (time.monotonic() - began)

        cpu_s, took_s, shares, found = [], [], [], 0
        own = tracer.program
        with closing(RegisterReader()) as registers:
            records = blocks_of(own, tracer.first)
            asked = AskedHolders(FileTables(), partial(blocks_of, own, tracer.first))
            held_mb = resident_mb(os.getpid())[0]
            for _ in range(ROUNDS):
                alone = followed_per_s(2.0)
                before_s, began = processor_s(os.getpid()), time.monotonic()
                followed = target.do()[0]
                one = scan(target.pid, records, 0, registers)
                meanwhile = (target.do()[0] - followed) / (time.monotonic() - began)
                cpu_s.append(processor_s(os.getpid()) - before_s)
                took_s.append(one.took_s)
                shares.append(meanwhile / alone)
                found = int((one.classes >= BlockClass.INDIRECT).sum())
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
        results.add(
            "work that the program does meanwhile",
            [1 / one for one in shares],
            "x less",
            1 / LEAST_SHARE,
        )
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
