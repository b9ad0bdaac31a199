"""The cost of tracing the kernel for other programs: messages between processes, and a walk over
files.

    python tests/bench/bench_kernel.py

The whole machine is traced, so the figures are elapsed times of work that allocates in the kernel:
a message between two processes is two allocations and two frees, a file of a walk about one. The
tracers take turns. memleak traces pages together with slab; leaktrace does both with --pages.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from pathlib import Path

from benchmarking.processes import build
from benchmarking.results import Results, interleaved, require_root
from benchmarking.tracers import Memleak
from harness.target import Target
from harness.tracer import NEVER, Tracer

ROUNDS = 5
MESSAGES = 10_000  # of each of four pairs of processes
WALKED = "/usr/share"

Trace = Callable[[], AbstractContextManager[object]]


def leaktrace(*options: str) -> Trace:
    @contextlib.contextmanager
    def trace() -> Generator[None, None, None]:
        with Tracer("--kernel", *options, NEVER) as tracer:
            tracer.stderr.until(lambda line: "tracing the kernel" in line)
            yield

    return trace


# memleak takes its tracepoints by name from tracefs: mounted in its mount namespace only.
_WITH_TRACEFS = (
    'test -e /sys/kernel/tracing/events || mount -t tracefs tracefs /sys/kernel/tracing; exec "$@"'
)


@contextlib.contextmanager
def memleak() -> Generator[None, None, None]:
    """Raises UnavailableError."""
    traced = Memleak(NEVER, through=["unshare", "-m", "sh", "-c", _WITH_TRACEFS, "sh"])
    try:
        yield
    finally:
        traced.end()


def message_ns(target: Target, trace: Trace) -> Callable[[], float]:
    """Measures nanoseconds per message."""

    def measure() -> float:
        with trace():
            target.do("500")  # warm up: sites and stacks
            elapsed_ns, pairs = target.do(str(MESSAGES))
        return elapsed_ns / (pairs * MESSAGES)

    return measure


def walk_ms(trace: Trace) -> Callable[[], float]:
    """Measures milliseconds of looking at every file below a folder."""

    def walk() -> None:
        subprocess.run(
            ["find", WALKED, "-xdev", "-type", "f", "-size", "+1G"],
            stdout=subprocess.DEVNULL,
            check=True,
        )

    def measure() -> float:
        with trace():
            walk()  # so that every tracer finds the same in memory
            started = time.perf_counter()
            walk()
            return (time.perf_counter() - started) * 1000

    return measure


def main() -> None:
    require_root()
    results = Results("kernel")
    ways: dict[str, Trace] = {
        "untraced": contextlib.nullcontext,
        "leaktrace --kernel": leaktrace(),
        "leaktrace --kernel -s 100": leaktrace("-s", "100"),
        "leaktrace --kernel --pages": leaktrace("--pages"),
        "memleak": memleak,
    }
    with Target([build("messages.c")]) as target:
        target.await_ready()
        compare("message", "ns", {n: message_ns(target, way) for n, way in ways.items()}, results)
    if Path(WALKED).is_dir():
        compare(f"find {WALKED}", "ms", {n: walk_ms(way) for n, way in ways.items()}, results)
    results.save()


def compare(what: str, unit: str, ways: dict[str, Callable[[], float]], results: Results) -> None:
    results.title(f"{what}, {unit}")
    found = interleaved(ROUNDS, ways, results)
    for name, samples in found.items():
        results.add(f"{what}: {name}", samples, unit)
    for name, samples in found.items():
        if name != "untraced":
            results.add_ratio(f"{what}: {name} / untraced", samples, found["untraced"])
    if "memleak" in found:
        ours = found["leaktrace --kernel --pages"]
        results.add_ratio(f"{what}: leaktrace / memleak, both with pages", ours, found["memleak"])


if __name__ == "__main__":
    main()
