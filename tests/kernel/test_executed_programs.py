"""Programs that a command executes, with an allocator that no program before had: nothing of them
is missed, or the report says that it may be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from harness.compiling import Compiler
from harness.reports import Report, Total
from harness.tracer import NEVER, ONE_REPORT, run_leaktrace
from harness.wording import notes_naming

pytestmark = pytest.mark.usefixtures("require_bpf")

UNSEEN = ("ended before", "missing")


def trace(*command: str | Path) -> Report:
    outcome = run_leaktrace(*ONE_REPORT, NEVER, "--", *command)
    assert outcome.exit_code == 0, outcome.stderr
    (report,) = outcome.reports
    return report


@pytest.fixture(params=["static", "musl", "static musl"])
def other_libc(
    request: pytest.FixtureRequest, compiled: Compiler, require_tool: Callable[[str], str]
) -> Path:
    """A program that exits at once, and has not the C library of the shell that executes it."""
    flags = ["-static"] if "static" in request.param else []
    compiler = require_tool("musl-gcc") if "musl" in request.param else ""
    return compiled("exit_at_once.c", *flags, compiler=compiler)


def test_by_the_command_itself(other_libc: Path) -> None:
    """It is stopped before its first instruction."""
    report = trace("sh", "-c", f"exec {other_libc}")
    assert report.under("scenario_leak") == Total(128_000, 1000)
    assert report.under("early") == Total(160, 10)
    assert {site.raw["stack_end"] for site in report.sites_under("scenario_leak")} == {"complete"}
    assert not notes_naming(report, *UNSEEN)
    assert not notes_naming(report, "was hooked after")


def test_a_program_without_an_allocator(
    compiled: Compiler, require_tool: Callable[[str], str]
) -> None:
    """Its malloc isn't hooked, because it has no free."""
    program = compiled("runs_once.c", "-static", compiler=require_tool("musl-gcc"))
    report = trace("sh", "-c", f"exec {program}")
    assert report.outstanding == Total()
    assert notes_naming(report, "malloc and free")


def test_several_in_turn(other_libc: Path, compiled: Compiler) -> None:
    dynamic = compiled("exit_at_once.c")
    report = trace("env", "sh", "-c", f"exec env {other_libc}")
    assert report.under("scenario_leak") == Total(128_000, 1000)
    report = trace("sh", "-c", f"exec env {dynamic}")
    assert report.under("scenario_leak") == Total(128_000, 1000)


def test_by_a_child(other_libc: Path, compiled: Compiler) -> None:
    """It can't be stopped: what it allocates is missed, or some of it, and the report says so."""
    report = trace("sh", "-c", f"(sleep 0.5; exec {other_libc}); :")
    if report.outstanding.count < 1010:
        assert notes_naming(report, *UNSEEN) or notes_naming(report, "was hooked after")
    report = trace("sh", "-c", f"(sleep 0.5; exec {compiled('exit_at_once.c')}); :")
    assert report.outstanding.count >= 1010  # in the C library that was hooked already
    assert not notes_naming(report, *UNSEEN)
