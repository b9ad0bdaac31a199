"""Memory that an allocator maps for itself, outside of any allocation call, is not counted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from harness.compiling import Compiler
from harness.reports import Report, Total
from harness.target import Target
from harness.tracer import ONE_REPORT, run_leaktrace, trace_work

from leaktrace.model import Event, EventKind
from leaktrace.options import ProcessOptions, ProcessTarget, ReportOptions
from leaktrace.process.setup import open_tracer

pytestmark = pytest.mark.usefixtures("require_bpf")

MAPPED_BYTES = 5 << 20


@pytest.mark.parametrize("options", [(), ("--combined-only",)])
@pytest.mark.parametrize("linking", [(), ("-static",)], ids=["dynamic", "static"])
def test_arenas_that_free_makes(
    linking: tuple[str, ...], options: tuple[str, ...], compiled: Compiler
) -> None:
    traced = trace_work([compiled("first_free.c", *linking)], *options)
    assert traced.account == (MAPPED_BYTES, 1)
    assert traced.report.outstanding == Total(*traced.account)
    (site,) = traced.report.sites
    assert site.functions[0] == "scenario_map"
    assert traced.report.losses == {}


def test_arenas_that_free_makes_are_no_events(compiled: Compiler) -> None:
    """Nor are the parts of them that free unmaps to align an arena."""
    regions: list[Event] = []
    with Target([compiled("first_free.c")]) as target:
        target.await_ready()
        report = ReportOptions(trace=True, full_stacks=True, lines=False, inlines=False)
        tracer = open_tracer(ProcessOptions(target=ProcessTarget((target.pid,)), report=report))
        try:
            tracer.arm()
            assert target.do() == (MAPPED_BYTES, 1)
            events, _ = tracer.pump()
            regions = [event for event in events if "map" in event.function]
            assert len([event for event in events if event.kind is EventKind.RELEASE]) == 8
        finally:
            tracer.close()
    (mapped,) = regions
    assert mapped.size_bytes == MAPPED_BYTES
    assert mapped.frames[0].function == "scenario_map"


def is_of(report: Report, library: str) -> list[tuple[str | None, ...]]:
    """Stacks of allocations by this library."""
    return [
        site.functions
        for site in report.sites
        if Path(site.frames[0].module or "").name.startswith(library)
    ]


def test_a_constructor_of_an_allocator(
    compiled: Compiler, monkeypatch: pytest.MonkeyPatch, require_library: Callable[[str], Path]
) -> None:
    """mimalloc reserves memory at its start if an environment variable requests it."""
    library = require_library("libmimalloc.so.*")
    monkeypatch.setenv("MIMALLOC_RESERVE_OS_MEMORY", "65536KiB")
    monkeypatch.setenv("MIMALLOC_VERBOSE", "1")
    program = compiled("first_free.c", "-DEARLY_CALL", "-Wl,--no-as-needed", str(library))
    outcome = run_leaktrace("-c", program, *ONE_REPORT, stdin="\n\n\n")
    assert outcome.exit_code == 0, outcome.stderr
    assert "reserve" in outcome.stderr  # it says so itself
    report = Report(next(line for line in outcome.stdout.splitlines() if line.startswith("{")))
    assert report.under("scenario_map") == Total(MAPPED_BYTES, 1)
    assert is_of(report, "libmimalloc") == []


@pytest.fixture
def require_library() -> Callable[[str], Path]:
    def find(pattern: str) -> Path:
        found = sorted(Path("/usr/lib").glob(f"*-linux-gnu/{pattern}"))
        if not found:
            pytest.skip(f"needs {pattern}")
        return found[0]

    return find
