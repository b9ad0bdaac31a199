"""What `leaktrace --all-processes` costs the machine, and itself.

    python tests/bench/bench_all_processes.py

Elapsed times, untraced and traced in turns: programs that are started one after the other, a
program that touches new pages and does nothing else (the worst case), and one that calls malloc and
free. Then how long a look at 10,000 processes takes.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager

from benchmarking.processes import build
from benchmarking.results import Results, interleaved, require_root
from harness.target import Target
from harness.tracer import NEVER, Tracer

from leaktrace.ranking.processes import scan

ROUNDS = 7
PROGRAMS = 1000
PAGES = 50_000
PAIRS = 2_000_000
PROCESSES = 10_000

Trace = Callable[[], AbstractContextManager[object]]


@contextlib.contextmanager
def ranked() -> Generator[None, None, None]:
    with Tracer("--all-processes", NEVER) as tracer:
        tracer.stderr.until(lambda line: "ranking" in line)
        yield


def start_programs() -> None:
    loop = f"i=0; while [ $i -lt {PROGRAMS} ]; do /bin/true; i=$((i+1)); done"
    subprocess.run(["sh", "-c", loop], check=True)


def elapsed_ms(trace: Trace, work: Callable[[], object]) -> Callable[[], float]:
    def measure() -> float:
        with trace():
            work()  # warm up
            started = time.perf_counter()
            work()
            return (time.perf_counter() - started) * 1000

    return measure


def compare(what: str, work: Callable[[], object], results: Results) -> None:
    results.title(f"{what}, ms")
    ways = {
        "untraced": elapsed_ms(contextlib.nullcontext, work),
        "--all-processes": elapsed_ms(ranked, work),
    }
    found = interleaved(ROUNDS, ways, results)
    for name, samples in found.items():
        results.add(f"{what}: {name}", samples, "ms")
    results.add_ratio(
        f"{what}: --all-processes / untraced", found["--all-processes"], found["untraced"]
    )


def measure_looks(results: Results) -> None:
    """A first look, and one after which nothing has changed."""
    results.title(f"a look at {PROCESSES:,} processes, ms")
    with Target([build("grower.c")]) as target:
        target.await_ready()
        for _ in range(PROCESSES):
            target.do("fork")
        first, later = [], []
        for _ in range(ROUNDS):
            started = time.perf_counter()
            found = scan()
            between = time.perf_counter()
            scan(found)
            first.append((between - started) * 1000)
            later.append((time.perf_counter() - between) * 1000)
    assert len(found.processes) >= PROCESSES
    results.add("first look", first, "ms")
    results.add("later look, all unchanged", later, "ms")


def main() -> None:
    require_root()
    results = Results("all_processes")
    compare(f"{PROGRAMS:,} programs started (sh, true)", start_programs, results)
    with Target([build("grower.c")]) as target:
        target.await_ready()

        def touch() -> None:
            target.do(f"grow {PAGES}")
            target.do("drop")

        compare(f"{PAGES:,} new pages touched", touch, results)
    with Target([build("bench_pairs.c"), "8"]) as target:
        target.await_ready()
        what = f"{PAIRS:,} pairs of malloc and free"
        compare(what, lambda: target.do(f"{PAIRS} 1"), results)
    measure_looks(results)
    results.save()


if __name__ == "__main__":
    main()
