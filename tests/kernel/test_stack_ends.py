"""Complete stacks are recognized as complete wherever they end: in fibers, in threads and programs
of a C library without unwind information, in C code called from Go."""

from __future__ import annotations

from pathlib import Path

import pytest
from gdb_stops import Gdb
from harness.compiling import Compiler
from harness.reports import Report, Site, total
from harness.target import Target
from harness.tracer import trace_work

from leaktrace.model import Event, EventKind
from leaktrace.options import ProcessOptions, ProcessTarget, ReportOptions
from leaktrace.process.setup import open_tracer
from leaktrace.process.tracer import Tracer

pytestmark = pytest.mark.usefixtures("require_bpf")

KINDS = ["ucontext", "linked", "assembly"]
FIBERS = 4


def site_of(report: Report, function: str) -> Site:
    (site,) = report.sites_under(function)
    return site


# --- fibers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_fibers(kind: str, compiled: Compiler) -> None:
    traced = trace_work([compiled("fibers.c"), kind])
    report = traced.report
    assert total(report.sites).__dict__ == dict(
        zip(("bytes", "count"), traced.account, strict=True)
    )
    depths = sorted(site.functions.index("fiber_body") for site in report.sites)
    assert depths == [2 + levels for levels in range(FIBERS)]
    for site in report.sites:
        assert site.raw["stack_end"] == "complete"
        (outermost,) = site.frames[site.functions.index("fiber_body") + 1 :]
        assert Path(outermost.module or "").name.startswith(
            "fibers" if kind == "assembly" else "libc"
        )
    assert report.losses == {}
    assert report.raw["stack_ends"] == {"complete": FIBERS}


@pytest.mark.parametrize("kind", KINDS)
def test_fibers_as_gdb_sees_them(kind: str, compiled: Compiler) -> None:
    """Frame by frame up to the one that the fiber's first function returns to. gdb shows further
    frames after that, which don't exist."""
    compared: set[tuple[int, ...]] = set()
    with Target([compiled("fibers.c"), kind, "0"]) as target:
        target.await_ready()
        report = ReportOptions(trace=True, full_stacks=True, lines=False, inlines=False)
        with Gdb(target.pid) as gdb:
            options = ProcessOptions(target=ProcessTarget((target.pid,)), report=report)
            tracer = open_tracer(options, knobs={"STOP_AT_RECORD": 1})
            try:
                tracer.arm()
                target.send()
                while len(compared) < FIBERS:
                    by_thread = gdb.next_stop()
                    assert by_thread is not None, "the target has ended"
                    for event in allocations(tracer):
                        ours = [frame.address for frame in event.frames]
                        assert event.frames[-2].function == "fiber_body"
                        assert ours == by_thread[event.tid][1 : len(ours) + 1]
                        compared.add(tuple(ours))
            finally:
                tracer.close()


def allocations(tracer: Tracer) -> list[Event]:
    events, _ = tracer.pump()
    return [event for event in events if event.kind is EventKind.ALLOCATE]


# --- C libraries and starts without unwind information ---------------------------------------


def check_outermost(report: Report, *, in_main: str) -> None:
    """`in_main`: the function that main is called by, or that main is outermost but for."""
    for keeper, size, callers in (
        ("keep_in_main", 1000, ("keep_in_main", "main")),
        ("keep_in_thread", 2000, ("keep_in_thread", "in_thread")),
        (
            "keep_in_handler",
            3000,
            ("keep_in_handler", "<signal handler called>", "interrupted", "main"),
        ),
    ):
        site = site_of(report, keeper)
        assert (site.total.bytes, site.total.count) == (size, 1)
        assert site.functions[: len(callers)] == callers
        assert site.raw["stack_end"] == "complete", site.functions
        above = site.frames[len(callers) :]
        if callers[-1] == "main" and in_main:
            assert [frame.function for frame in above][-1] == in_main
    assert report.losses == {}


@pytest.mark.may_skip("not every machine has musl")
@pytest.mark.parametrize("linking", [(), ("-static",)], ids=["dynamic", "static"])
def test_musl(linking: tuple[str, ...], compiled: Compiler) -> None:
    traced = trace_work([compiled("outermost.c", *linking, compiler="musl-gcc")])
    check_outermost(traced.report, in_main="")
    for site in traced.report.sites:
        (outermost,) = site.frames[site.functions.index(last_own(site)) + 1 :]
        assert outermost.function in (None, "libc_start_main_stage2", "start")


def last_own(site: Site) -> str:
    return "in_thread" if "in_thread" in site.functions else "main"


@pytest.mark.parametrize("linking", [(), ("-static",), ("-static-pie",)])
def test_glibc(linking: tuple[str, ...], compiled: Compiler) -> None:
    check_outermost(trace_work([compiled("outermost.c", *linking)]).report, in_main="_start")


def test_a_start_of_its_own(compiled: Compiler) -> None:
    program = compiled("outermost.c", "-DOWN_START", "-nostartfiles")
    check_outermost(trace_work([program]).report, in_main="_start")
