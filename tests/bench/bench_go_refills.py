"""What `leaktrace go --go-sample-refills` costs the program.

    python tests/bench/bench_go_refills.py [SECONDS]

A Go program allocates objects of 1 KiB: as fast as it can, which is the worst case, and at about 40
MiB/s. Its processor time per round is compared with that of the same program without probes, in
turns.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path

from benchmarking.processes import processor_s
from benchmarking.results import Results, require_root
from harness.compiling import PROGRAMS
from harness.go_programs import build_go_program

from leaktrace.process.go_refills import Refills
from leaktrace.runtimes.go.heap import Heap
from leaktrace.runtimes.go.program import open_go_program

ROUNDS = 5
MIB_PER_ROUND = 16 / 1024
MOST_RATIO = 2.0  # as fast as it can: several hundred thousand refills per second
MOST_SHARE = 3.0  # per cent of a processor, at 40 MiB/s


class Busy:
    """The program. Its counter of rounds is read as it prints it."""

    def __init__(self, program: Path, pause_us: int) -> None:
        command = [str(program), "busy", str(pause_us)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert int(self.process.stdout.readline()) == self.process.pid
        self._rounds = 0
        threading.Thread(target=self._follow, daemon=True).start()

    def _follow(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._rounds = int(line)

    def measure(self, seconds: float) -> tuple[float, float, float]:
        """How many rounds it makes, its processor time, and how long that took."""
        before, cpu_s, began_s = self._rounds, processor_s(self.process.pid), time.monotonic()
        time.sleep(seconds)
        rounds, used_s = self._rounds - before, processor_s(self.process.pid) - cpu_s
        return rounds, used_s, time.monotonic() - began_s


def compare(results: Results, program: Path, seconds: float, pause_us: int) -> None:
    busy = Busy(program, pause_us)
    try:
        go = open_go_program(busy.process.pid)
        variables = Heap(go).variables
        alone, probed, cost_us, share, hits_per_s, mib_per_s = [], [], [], [], [], []
        for _ in range(ROUNDS):
            rounds, cpu_s, took_s = busy.measure(seconds)
            alone.append(cpu_s / rounds)
            with closing(Refills(go, variables)) as refills:
                before = refills.look()
                more, more_cpu_s, took_s = busy.measure(seconds)
                after = refills.look()
            probed.append(more_cpu_s / more)
            hits = after.thinned_count - before.thinned_count
            hits += sum(one.seen_count for one in after.sites.values())
            hits -= sum(one.seen_count for one in before.sites.values())
            extra_s = (probed[-1] - alone[-1]) * more
            cost_us.append(1e6 * extra_s / hits)
            share.append(100 * extra_s / took_s)
            hits_per_s.append(hits / took_s)
            mib_per_s.append(more * MIB_PER_ROUND / took_s)
        is_paced = pause_us > 0
        results.add("allocated, with probes", mib_per_s, "MiB/s")
        results.add("refills", hits_per_s, "per s")
        results.add_ratio(
            "processor time per round, with probes",
            probed,
            alone,
            None if is_paced else MOST_RATIO,
        )
        results.add("processor time per refill", cost_us, "µs")
        results.add(
            "processor time of the process", share, "% of one", MOST_SHARE if is_paced else None
        )
    finally:
        busy.process.kill()


def main() -> None:
    require_root()
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 3.0
    results = Results("go_refills")
    with tempfile.TemporaryDirectory() as folder:
        program = build_go_program(Path(folder) / "go_refills", source=PROGRAMS / "go_refills.go")
        results.title("objects of 1 KiB, as fast as the program can")
        compare(results, program, seconds, 0)
        results.title("at about 40 MiB/s")
        compare(results, program, seconds, 25_000)
    results.remark(f"load average {os.getloadavg()[0]:.1f}, {os.cpu_count()} processors")
    results.save()


if __name__ == "__main__":
    main()
