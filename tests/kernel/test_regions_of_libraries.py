"""What the program has not asked for: the stacks of threads are a group of their own, and what an
allocator maps for itself is not counted. What the program maps in its handlers is its own."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from harness.compiling import Compiler
from harness.processes import await_true
from harness.reports import Report, Total
from harness.target import Target
from harness.tracer import trace_work

pytestmark = pytest.mark.usefixtures("require_bpf")

MIB = 1 << 20
SETTLED_S = 1.1
_STACK = re.compile(
    r"^[0-9a-f]+-[0-9a-f]+ rw-p \S+ 00:00 0 *$\nSize: +8192 kB.*?^Rss: +(\d+) kB", re.M | re.S
)


@pytest.fixture
def program(compiled: Compiler) -> Path:
    return compiled("resident_regions.c", "-pthread")


class Work:
    """Has a target do this, and reads what its stacks have resident."""

    def __init__(self, *lines: str) -> None:
        self._lines = lines
        self.stacks = 0
        self.resident = 0

    def __call__(self, target: Target) -> tuple[int, ...]:
        for line in self._lines:
            target.do(line)
        found = _STACK.findall(Path(f"/proc/{target.pid}/smaps").read_text())
        self.stacks, self.resident = len(found), sum(int(kib) for kib in found) * 1024
        return ()


def of_stacks(report: Report) -> Total:
    group = report.raw.get("thread_stacks", {"reserved_bytes": 0, "count": 0})
    return Total(group["reserved_bytes"], group["count"])


def of_others(report: Report) -> int:
    """The bytes of regions that are not stacks."""
    return int(report.raw.get("regions", {"reserved_bytes": 0})["reserved_bytes"]) - (
        of_stacks(report).bytes
    )


def test_stacks_of_threads(program: Path) -> None:
    work = Work("threads 6")
    report = trace_work([program], drive=work).report
    group = report.raw["thread_stacks"]
    assert of_stacks(report).count == work.stacks == 6
    assert group["resident_bytes"] == work.resident >= 6 * 64 * 1024
    assert group["idle_count"] == 0
    assert of_others(report) == 0
    (site,) = (one["frames"] for one in group["sites"])
    assert "start" in [frame["function"] for frame in site]
    assert not [one for one in report.sites if one.raw.get("is_region")]
    everything = sum(one.total.bytes for one in report.sites) + of_stacks(report).bytes
    assert report.outstanding.bytes == report.younger.bytes + everything


@pytest.mark.parametrize("how", ["static", "musl"])
def test_stacks_of_other_libraries(compiled: Compiler, how: str) -> None:
    compiler, flags = ("", ("-static",)) if how == "static" else ("musl-gcc", ())
    program = compiled("resident_regions.c", "-pthread", *flags, compiler=compiler)
    report = trace_work([program], drive=Work("threads 5")).report
    assert of_stacks(report).count == 5
    assert of_others(report) == 0


def test_stacks_that_no_thread_uses(program: Path) -> None:
    """Nobody joins these threads. A stack that was mapped in the last second may be of a thread
    that is just being created, so that time has to pass."""

    def drive(target: Target) -> tuple[int, ...]:
        begun_s = time.monotonic()
        target.do("abandon 7")
        tasks = Path(f"/proc/{target.pid}/task")
        await_true(lambda: len(list(tasks.iterdir())) == 1)
        await_true(lambda: time.monotonic() > begun_s + SETTLED_S)
        return ()

    group = trace_work([program], drive=drive).report.raw["thread_stacks"]
    assert (group["count"], group["idle_count"]) == (7, 7)


def test_arenas_and_handlers(program: Path) -> None:
    """free is the first call of the allocator in its thread: glibc makes an arena of 64 MiB for it,
    which is not the program's. What handlers of the program map is."""
    report = trace_work([program], drive=Work("free 3", "care", "handlers")).report
    assert of_stacks(report).count == 4  # that of a joined thread was used again
    assert report.under("handler_maps") == Total(5 * MIB, 1)
    assert report.under("destructor_maps") == Total(3 * MIB, 1)
    assert of_others(report) == 8 * MIB


def test_an_allocator_that_looks_after_its_heap(compiled: Compiler) -> None:
    traced = trace_work([compiled("own_care.c")])
    assert traced.report.outstanding == Total(*traced.account)
    assert traced.report.under("scenario_map") == Total(*traced.account)
    assert traced.report.losses == {}
