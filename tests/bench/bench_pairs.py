"""The cost of tracing a malloc+free pair, and where each nanosecond goes.

    python tests/bench/bench_pairs.py

The untraced program, empty probes where leaktrace has its own, leaktrace and memleak take turns on
the same process, which has its own core. A figure is the median over rounds. The figure of a round
is the median of many short batches, in processor time.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from pathlib import Path

from benchmarking.processes import build, pin, reserve_core
from benchmarking.results import Results, interleaved, require_root
from benchmarking.tracers import (
    Attach,
    UnavailableError,
    empty_probes,
    empty_return_probes,
    leaktrace,
    memleak,
    untraced,
)
from harness.target import Target
from harness.tracer import Tracer

from leaktrace.bpf import syscalls

ROUNDS = 3
BATCH_NS = 2_000_000
BATCHES = 120
FRAMES = 8
DEPTHS = (6, 30, 80, 100)  # the last two are too deep for known stacks: each frame is walked
FAULTS_ROUNDS = 9  # these two differ by less than the machine varies from minute to minute


def pair_ns(target: Target) -> float:
    """Nanoseconds per pair, the median of the batches."""
    target.do("500 5")  # warm up: the thread's state, the site, the stack
    pairs = 500 * BATCH_NS // statistics.median_low(target.do("500 9"))
    return statistics.median(target.do(f"{pairs} {BATCHES}")) / pairs


def traced_pair_ns(target: Target, attach: Attach) -> Callable[[], float]:
    def measure() -> float:
        with attach(target.pid):
            return pair_ns(target)

    return measure


def compare(program: Path, core: int, results: Results) -> None:
    results.title(f"malloc+free, a stack of {FRAMES} frames, ns a pair")
    with Target([program, str(FRAMES)]) as target:
        target.await_ready()
        pin(target.pid, core)
        ways: dict[str, Attach] = {
            "untraced": untraced,
            "empty probes": empty_probes,
            "empty return probes": empty_return_probes,
            "leaktrace": leaktrace(),
            "leaktrace --probe-returns": leaktrace("--probe-returns"),
            "leaktrace -s 100": leaktrace("-s", "100"),
            "leaktrace -z 1000 (all filtered out)": leaktrace("-z", "1000"),
            "memleak": memleak(),
        }
        found = interleaved(
            ROUNDS, {name: traced_pair_ns(target, way) for name, way in ways.items()}, results
        )
    for name, samples in found.items():
        results.add(name, samples, "ns")
    if "memleak" in found:
        results.add_ratio("leaktrace / memleak", found["leaktrace"], found["memleak"], 0.12)
    results.add_ratio("leaktrace / empty probes", found["leaktrace"], found["empty probes"], 1.8)
    by_returns = found["leaktrace --probe-returns"]
    results.add_ratio("leaktrace / leaktrace --probe-returns", found["leaktrace"], by_returns, 0.75)
    empty_returns = found["empty return probes"]
    results.add_ratio("empty probes / empty return probes", found["empty probes"], empty_returns)


def compare_faults(program: Path, core: int, results: Results) -> None:
    results.title(f"page faults in place of calls, {FRAMES} frames, ns a pair")
    with Target([program, str(FRAMES)]) as target:
        target.await_ready()
        pin(target.pid, core)
        ways: dict[str, Attach] = {"untraced": untraced, "--faults": leaktrace("--faults")}
        found = interleaved(
            FAULTS_ROUNDS,
            {name: traced_pair_ns(target, way) for name, way in ways.items()},
            results,
        )
    results.add("leaktrace --faults", found["--faults"], "ns")
    results.add_ratio("leaktrace --faults / untraced", found["--faults"], found["untraced"], 1.03)


def by_depth(program: Path, core: int, results: Results) -> None:
    """The cost of a frame, and the share of each BPF program."""
    results.title("by depth of the stack, ns a pair")
    cost_ns: dict[int, float] = {}
    for frames in DEPTHS:
        with Target([program, str(frames)]) as target:
            target.await_ready()
            pin(target.pid, core)
            with leaktrace()(target.pid):
                cost_ns[frames] = pair_ns(target)
        results.add(f"leaktrace, {frames} frames", cost_ns[frames], "ns")
    *_, less, most = DEPTHS
    results.add("a frame that is walked", (cost_ns[most] - cost_ns[less]) / (most - less), "ns")

    results.title(f"in the BPF programs, {FRAMES} frames, ns a run (measuring adds some)")
    with Target([program, str(FRAMES)]) as target:
        target.await_ready()
        pin(target.pid, core)
        with Tracer("-p", str(target.pid), "3600") as tracer:
            tracer.await_armed()
            statistics_descriptor = syscalls.enable_run_time_stats()
            try:
                pair_ns(target)
                for info in programs_of(tracer.pid):
                    if info.run_count > BATCHES:
                        results.add(info.name, info.run_time_ns / info.run_count, "ns")
            finally:
                os.close(statistics_descriptor)


def programs_of(pid: int) -> list[syscalls.ProgramInfo]:
    """The BPF programs that a process holds, by name. Raises UnavailableError."""
    ids = set()
    for entry in Path(f"/proc/{pid}/fdinfo").iterdir():
        fields = dict(line.split(":", 1) for line in entry.read_text().splitlines() if ":" in line)
        if "prog_id" in fields and "prog_type" in fields:  # a link has only the first
            ids.add(int(fields["prog_id"]))
    found = []
    for identity in sorted(ids):
        descriptor = int(syscalls.libbpf().bpf_prog_get_fd_by_id(identity))
        if descriptor < 0:
            raise UnavailableError(f"BPF program {identity} can't be opened")
        found.append(syscalls.program_info(descriptor))
        os.close(descriptor)
    return sorted(found, key=lambda info: info.name)


def main() -> None:
    require_root()
    results = Results("pairs")
    core = reserve_core()
    program = build("bench_pairs.c")
    compare(program, core, results)
    compare_faults(program, core, results)
    by_depth(program, core, results)
    results.save()


if __name__ == "__main__":
    main()
