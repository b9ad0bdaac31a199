"""What a traced process pays for others that are traced with it.

    python tests/bench/bench_family.py

The kernel asks every uprobe of an instruction whether it is about the process that hit it. Each
traced process has probes of its own in the same C library, so a hit costs more, the more processes
are traced. One process is measured; the others sleep. A figure is the median over rounds. The
figure of a round is the median of many short batches, in processor time.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

from benchmarking.processes import build, pin, reserve_core
from benchmarking.results import Results, interleaved, require_root
from benchmarking.tracers import leaktrace
from harness.target import Target

ROUNDS = 5
PAIRS = 1000
BATCHES = 50
FRAMES = 8
OTHERS = (0, 9, 99)
BAR = 1.05  # with 99 others, over alone


@contextlib.contextmanager
def sleeping(program: Path, count: int) -> Generator[list[int], None, None]:
    """The ids of so many processes that wait for input."""
    with contextlib.ExitStack() as stack:
        targets = [stack.enter_context(Target([program, str(FRAMES)])) for _ in range(count)]
        yield [target.await_ready().pid for target in targets]


def pair_ns(target: Target, others: Sequence[int]) -> Callable[[], float]:
    """Measures nanoseconds per pair of malloc and free."""
    more = ("-p", ",".join(map(str, others))) if others else ()

    def measure() -> float:
        with leaktrace(*more)(target.pid):
            target.do(f"{PAIRS} 5")  # warm up: the thread's state, the site, the stack
            return statistics.median(target.do(f"{PAIRS} {BATCHES}")) / PAIRS

    return measure


def main() -> None:
    require_root()
    results = Results("family")
    core = reserve_core()
    program = build("bench_pairs.c")
    results.title(f"malloc+free, {FRAMES} frames, ns a pair")
    with (
        Target([program, str(FRAMES)]) as target,
        sleeping(program, max(OTHERS)) as others,
    ):
        target.await_ready()
        pin(target.pid, core)
        ways = {f"with {count} others": pair_ns(target, others[:count]) for count in OTHERS}
        found = interleaved(ROUNDS, ways, results)
    for name, samples in found.items():
        results.add(name, samples, "ns")
    alone = found[f"with {OTHERS[0]} others"]
    for count in OTHERS[1:]:
        bar = BAR if count == max(OTHERS) else None
        results.add_ratio(f"{count} others / alone", found[f"with {count} others"], alone, bar)
    results.save()


if __name__ == "__main__":
    main()
