"""The cost of a report, leaktrace's own use of resources, and whether anything is lost.

    python tests/bench/bench_report.py

A target holds a million blocks from a thousand stacks, another one a million from 65,536; leaktrace
and memleak report on it. Processor time is of the tracer's process, between two reports.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Generator
from pathlib import Path

from benchmarking.processes import (
    build,
    first_thread_ns,
    map_memory_mb,
    processor_s,
    resident_mb,
)
from benchmarking.results import Results, require_root
from benchmarking.tracers import Memleak, UnavailableError
from harness.target import Target
from harness.tracer import NEVER, Tracer

BLOCKS = 1_000_000
FEW_STACKS_BITS = 10
MANY_STACKS_BITS = 16
REPORTS = 4
IDLE_S = 12.0


@contextlib.contextmanager
def waiting(program: Path, bits: int) -> Generator[Target, None, None]:
    """A target that allocates on request."""
    with Target([program, str(BLOCKS), str(bits)]) as target:
        target.await_ready()
        yield target


def leaktrace_itself(program: Path, results: Results) -> None:
    results.title("leaktrace on a process that does nothing, a report every 5 s")
    with waiting(program, FEW_STACKS_BITS) as target, Tracer("-p", str(target.pid)) as tracer:
        tracer.await_armed()
        before_s, before = first_thread_ns(tracer.pid) / 1e9, time.monotonic()
        time.sleep(IDLE_S)
        spent_s = first_thread_ns(tracer.pid) / 1e9 - before_s
        results.add("processor", 100 * spent_s / (time.monotonic() - before), "%", 0.5)
        results.add("resident memory", resident_mb(tracer.pid)[0], "MB", 80)
        results.add("resident memory, most", resident_mb(tracer.pid)[1], "MB")
        results.add("kernel memory of its maps", map_memory_mb(tracer.pid), "MB")


def await_full_report(tracer: Tracer) -> None:
    while tracer.next_report().outstanding.count < BLOCKS:
        pass  # it was made, or started, while the target was allocating


def leaktrace_reports(program: Path, results: Results) -> float:
    """Returns processor seconds per report."""
    with (
        waiting(program, FEW_STACKS_BITS) as target,
        Tracer("-p", str(target.pid), "-o", "0", "-f", "json", "1") as tracer,
    ):
        tracer.await_armed()
        target.do()
        await_full_report(tracer)
        await_full_report(tracer)  # gave each frame its name
        before_s = processor_s(tracer.pid)
        for _ in range(REPORTS):
            await_full_report(tracer)
        report_s = (processor_s(tracer.pid) - before_s) / REPORTS
        results.add("leaktrace: processor time a report", report_s, "s", 0.4)
        results.add("leaktrace: resident memory, most", resident_mb(tracer.pid)[1], "MB", 180)
        results.add("leaktrace: kernel memory of its maps", map_memory_mb(tracer.pid), "MB")
    return report_s


def memleak_reports(program: Path, results: Results) -> float:
    """Returns processor seconds of its second report, which finds all names known."""
    with waiting(program, FEW_STACKS_BITS) as target:
        tracer = Memleak("-p", str(target.pid), "-o", "0", NEVER)
        try:
            target.do()
            tracer.report()  # gave each frame its name
            before_s = processor_s(tracer.pid)
            tracer.report()
            report_s = processor_s(tracer.pid) - before_s
            results.add("memleak: processor time a report", report_s, "s")
            results.add("memleak: resident memory, most", resident_mb(tracer.pid)[1], "MB")
            results.add("memleak: kernel memory of its maps", map_memory_mb(tracer.pid), "MB")
        finally:
            tracer.end()
    return report_s


def losses(program: Path, results: Results) -> None:
    stacks = 1 << MANY_STACKS_BITS
    results.title(f"{BLOCKS:,} blocks outstanding from {stacks:,} stacks, default limits")
    with (
        waiting(program, MANY_STACKS_BITS) as target,
        Tracer("-p", str(target.pid), "-o", "0", "-f", "json", NEVER) as tracer,
    ):
        tracer.await_armed()
        target.do()
        (report,) = tracer.stop().reports
    results.add("leaktrace: blocks missing", BLOCKS - report.outstanding.count, "", 0)
    results.add("leaktrace: stacks missing", stacks - report.raw["site_count"], "", 0)

    with waiting(program, MANY_STACKS_BITS) as target:
        memleak = Memleak("-p", str(target.pid), "-o", "0", "-T", "1000000", NEVER)
        try:
            target.do()
            memleak.report()
        finally:
            written = memleak.end()
    held = [
        int(match[1])
        for line in written
        if (match := re.match(r"\t\d+ bytes in (\d+) allocations from stack", line))
    ]
    results.add("memleak: blocks missing", BLOCKS - sum(held), "")
    results.add("memleak: stacks missing", stacks - len(held), "")


def main() -> None:
    require_root()
    results = Results("report")
    program = build("bench_outstanding.c")
    leaktrace_itself(program, results)
    results.title(f"{BLOCKS:,} blocks outstanding from {1 << FEW_STACKS_BITS:,} stacks")
    leaktrace_s = leaktrace_reports(program, results)
    try:
        results.add(
            "leaktrace / memleak", leaktrace_s / memleak_reports(program, results), "x", 0.05
        )
        losses(program, results)
    except UnavailableError as error:
        results.remark(str(error))
    results.save()


if __name__ == "__main__":
    main()
