"""What the histogram of lifetimes adds to a malloc+free pair.

    python tests/bench/bench_lifetimes.py [REFERENCE]

Ways to trace one process, with and without it, take turns. REFERENCE: the `src` folder of another
leaktrace, to compare with that, too.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Generator

from bench_pairs import FRAMES, pair_ns
from benchmarking.processes import build, pin, reserve_core
from benchmarking.results import Results, interleaved, require_root
from harness.target import Target

from leaktrace.options import ProcessOptions, ProcessTarget
from leaktrace.process.setup import open_tracer
from leaktrace.process.tracer import Tracer

ROUNDS = 7
AT_MOST = 1.05

# Traces like this script, until its stdin ends.
_HOLD = """
import sys
from leaktrace.options import ProcessOptions, ProcessTarget
from leaktrace.process.setup import open_tracer
tracer = open_tracer(ProcessOptions(target=ProcessTarget((int(sys.argv[1]),))))
tracer.arm()
print("armed", flush=True)
sys.stdin.read()
tracer.close()
"""


@contextlib.contextmanager
def traced(pid: int, knobs: dict[str, int]) -> Generator[Tracer, None, None]:
    tracer = open_tracer(ProcessOptions(target=ProcessTarget((pid,))), knobs=knobs)
    try:
        tracer.arm()
        yield tracer
    finally:
        tracer.close()


@contextlib.contextmanager
def traced_by(pid: int, sources: str) -> Generator[None, None, None]:
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(pid)],
        env={**os.environ, "PYTHONPATH": sources},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        process.stdout.readline()
        yield
        process.stdin.close()


def main() -> None:
    require_root()
    results = Results("lifetimes")
    core = reserve_core()
    results.title(f"malloc+free, a stack of {FRAMES} frames, ns a pair")
    with Target([build("bench_pairs.c"), str(FRAMES)]) as target:
        target.await_ready()
        pin(target.pid, core)

        def with_knobs(**knobs: int) -> Callable[[], float]:
            def measure() -> float:
                with traced(target.pid, knobs):
                    return pair_ns(target)

            return measure

        def watched() -> float:
            with traced(target.pid, {}) as tracer:
                pair_ns(target)
                tracer.watch_releases(tracer.snapshot().site_ids.tolist())
                found = pair_ns(target)
                assert tracer.releases()
                return found

        def of_reference() -> float:
            with traced_by(target.pid, sys.argv[1]):
                return pair_ns(target)

        ways = {
            "without lifetimes": with_knobs(LIFETIMES=0),
            "with lifetimes": with_knobs(LIFETIMES=1),
            "its site is watched": watched,
        }
        if len(sys.argv) > 1:
            ways["the reference"] = of_reference
        found = interleaved(ROUNDS, ways, results)
    for name, samples in found.items():
        results.add(name, samples, "ns")
    results.add_ratio(
        "watched / not watched", found.pop("its site is watched"), found["with lifetimes"]
    )
    measured = found.pop("with lifetimes")
    for name, samples in found.items():
        results.add_ratio(f"with lifetimes / {name}", measured, samples, AT_MOST)
    results.save()


if __name__ == "__main__":
    main()
