"""Long tracing, and many runs in a row, to find what accumulates.

In the long form an hour and 10,000 times; LEAKTRACE_SAFETY_S and LEAKTRACE_SAFETY_CYCLES set other
figures.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from harness.changed_text import changed_bytes
from harness.compiling import Compiler
from harness.length import IS_LONG
from harness.reports import Total
from harness.target import Target
from harness.tracer import Tracer

from leaktrace.options import ProcessOptions, ProcessTarget
from leaktrace.process.setup import open_tracer

pytestmark = [
    pytest.mark.usefixtures("require_bpf"),
    pytest.mark.alone("it measures time and memory"),
]

DURATION_S = float(os.environ.get("LEAKTRACE_SAFETY_S", "3600" if IS_LONG else "8"))
A_TRACER = 50 if IS_LONG else 5  # so often one attaches and detaches
CYCLES = int(os.environ.get("LEAKTRACE_SAFETY_CYCLES", "10000" if IS_LONG else "15"))


def resident_kib(pid: int) -> int:
    fields = Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1].split()
    return int(fields[0])


def test_a_long_time(compiled: Compiler) -> None:
    """Every figure is exact at the end, nothing was lost, and leaktrace has not grown."""
    interval = "1" if DURATION_S < 60 else "10"
    with Target([compiled("soak.c")]) as target:
        target.await_ready()
        with Tracer(
            "-p", str(target.pid), "-f", "json", "-o", "0", "-T", "100000", interval
        ) as tracer:
            tracer.await_armed()
            target.send()
            until = time.monotonic() + DURATION_S
            tracer.next_report()
            warm_kib = resident_kib(tracer.pid)
            while time.monotonic() < until:
                tracer.next_report()
            grown_kib = resident_kib(tracer.pid) - warm_kib
            account = Total(*target.do())
            outcome = tracer.stop()
        assert target.end() == 0
        last = outcome.reports[-1]
        mapped = last.under("pthread_create")
        assert last.losses == {}
        assert last.outstanding == Total(account.bytes + mapped.bytes, account.count + mapped.count)
        assert grown_kib < 16 << 10


def test_again_and_again(compiled: Compiler) -> None:
    """The target runs on, with unchanged code."""
    with Target([compiled("soak.c")]) as target:
        target.await_ready()
        target.send()
        for _ in range(-(-CYCLES // A_TRACER)):
            tracer = open_tracer(ProcessOptions(target=ProcessTarget((target.pid,))))
            tracer.arm()
            for _ in range(A_TRACER - 1):
                tracer.pump()
                tracer.first.hooks.detach_objects()
                tracer.first.look_times.at_once()
                tracer.look_again()
            tracer.close()
            assert changed_bytes(target.pid) == []
        assert changed_bytes(target.pid) == []
        descriptors = len(list(Path("/proc/self/fd").iterdir()))
        assert descriptors < 100
        target.do()
        assert target.end() == 0
