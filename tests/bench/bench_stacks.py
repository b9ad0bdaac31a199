"""The cost of the walk by unwind tables, compared with the kernel's own walk by frame pointers.

    python tests/bench/bench_stacks.py

A program compiled with frame pointers, so that both have stacks to walk. Only leaktrace sees the
last three frames: two of libc, which keeps no frame pointers, and `_start`. The tracers take turns
on the same process, which has its own core. A figure is the median over rounds. The figure of a
round is the median of many short batches, in processor time.
"""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path

from benchmarking.processes import build, pin, reserve_core
from benchmarking.results import Results, interleaved, require_root
from benchmarking.tracers import Attach, UnavailableError, empty_probes, leaktrace, untraced
from harness.lines import Lines
from harness.target import Target
from harness.tracer import tracer_environment

ROUNDS = 5
PAIRS = 1000  # a batch: some milliseconds when traced
BATCHES = 100
BARS = {10: 0.8, 30: 0.7}  # by frames: leaktrace's cost over that of the tracker by bpf_get_stackid

_RUN_STACKID = Path(__file__).with_name("benchmarking") / "run_stackid.py"


@contextlib.contextmanager
def tracker_by_stackid(pid: int) -> Generator[None, None, None]:
    """Raises UnavailableError."""
    process = subprocess.Popen(
        [sys.executable, str(_RUN_STACKID), str(pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=tracer_environment(),
    )
    assert process.stdout is not None
    assert process.stdin is not None
    if Lines(process.stdout, "run_stackid.py").next() != "armed":
        raise UnavailableError("the tracker by bpf_get_stackid does not run here")
    try:
        yield
    finally:
        process.stdin.close()
        process.wait()


def pair_ns(target: Target, attach: Attach) -> Callable[[], float]:
    """Measures nanoseconds per pair of malloc and free."""

    def measure() -> float:
        pairs = PAIRS if attach is not untraced else 100 * PAIRS
        with attach(target.pid):
            target.do(f"{pairs} 5")  # warm up: the thread's state, the site, the stack
            return statistics.median(target.do(f"{pairs} {BATCHES}")) / pairs

    return measure


def compare(program: Path, frames: int, core: int, results: Results) -> None:
    results.title(f"malloc+free, {frames} frames, ns a pair")
    with Target([program, str(frames)]) as target:
        target.await_ready()
        pin(target.pid, core)
        ways: dict[str, Attach] = {
            "untraced": untraced,
            "empty probes": empty_probes,
            "leaktrace": leaktrace(),
            "leaktrace --stack-walker fp": leaktrace("--stack-walker", "fp"),
            "tracker by bpf_get_stackid": tracker_by_stackid,
        }
        found = interleaved(
            ROUNDS, {name: pair_ns(target, way) for name, way in ways.items()}, results
        )
    for name, samples in found.items():
        results.add(f"{name}, {frames} frames", samples, "ns")
    ours, empty = found["leaktrace"], found["empty probes"]
    for name in ("leaktrace --stack-walker fp", "tracker by bpf_get_stackid"):
        if name not in found:
            continue
        bar = BARS[frames] if name.startswith("tracker") else None
        results.add_ratio(f"leaktrace / {name}, {frames} frames", ours, found[name], bar)
        results.add(
            f"the same without the probes' own cost, {frames} frames",
            [(a - e) / (b - e) for a, b, e in zip(ours, found[name], empty, strict=True)],
            "x",
        )


def main() -> None:
    require_root()
    results = Results("stacks")
    core = reserve_core()
    program = build("bench_pairs.c")
    for frames in BARS:
        compare(program, frames, core, results)
    results.save()


if __name__ == "__main__":
    main()
