"""The walkers and the fallbacks between them, the ways a walk can end, and the counters of both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from harness.compiling import Compiler
from harness.probes import return_probe
from harness.reports import Report, Site
from harness.target import Target
from harness.tracer import NEVER, ONE_REPORT, Tracer, run_leaktrace, trace_work
from harness.wording import names

pytestmark = pytest.mark.usefixtures("require_bpf")

LIBC = 3  # frames above main: __libc_start_call_main, __libc_start_main, _start
MAX_FRAMES, SINGLE_FRAMES = 127, 64
WITHOUT = "LEAKTRACE_WITHOUT"


@pytest.fixture
def walkers(compiled: Compiler) -> Path:
    return compiled("stack_walkers.c")


def work(*commands: str) -> Callable[[Target], tuple[int, ...]]:
    def drive(target: Target) -> tuple[int, ...]:
        for command in commands:
            target.do(command)
        return ()

    return drive


def site_of(report: Report, size: int) -> Site:
    """The site that holds one block of this size."""
    (site,) = [site for site in report.sites if site.total.bytes == size]
    return site


def end_of(report: Report, size: int) -> str:
    return str(site_of(report, size).raw["stack_end"])


def notes(report: Report) -> list[str]:
    return [note for note in report.raw["target"]["notes"] if "stack" in note]


# --- the ladder ------------------------------------------------------------------------------


@pytest.mark.parametrize("choice", ["auto", "eh_frame"])
def test_unwind_tables_come_first(walkers: Path, choice: str) -> None:
    report = trace_work([walkers], "--stack-walker", choice, drive=work("inner 1001")).report
    site = site_of(report, 1001)
    assert site.functions[:3] == ("scenario_inner", "scenario_outer", "main")
    assert site.functions[-1] == "_start"
    assert site.raw["stack_end"] == "complete"
    assert report.raw["stack_ends"] == {"complete": 1}
    assert report.losses == {}
    assert notes(report) == []


def test_frame_pointers_on_demand(compiled: Compiler) -> None:
    """As far as frame pointers go: libc keeps none, so the callers of main are unknown."""
    program = compiled("stack_walkers.c", "-fno-omit-frame-pointer")
    report = trace_work(
        [program], "--stack-walker", "fp", drive=work("inner 1001", "dig 300 1002")
    ).report
    assert site_of(report, 1001).functions[:3] == ("scenario_inner", "scenario_outer", "main")
    assert end_of(report, 1001) == "unknown"
    assert len(site_of(report, 1002).frames) == MAX_FRAMES
    assert end_of(report, 1002) == "truncated"
    assert report.raw["stack_ends"] == {"unknown": 1, "truncated": 1}
    assert report.losses == {"truncated_stacks": 1}
    assert notes(report) == []  # it was asked for


def test_without_tail_calls(walkers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WITHOUT, "tail_calls")
    fits, excess = SINGLE_FRAMES - LIBC - 1, SINGLE_FRAMES - LIBC
    report = trace_work(
        [walkers], drive=work(f"dig {fits} 1001", f"dig {excess} 1002", "dig 300 1004")
    ).report
    assert end_of(report, 1001) == "complete"
    assert len(site_of(report, 1001).frames) == SINGLE_FRAMES
    assert end_of(report, 1002) == "truncated"
    assert len(site_of(report, 1002).frames) == SINGLE_FRAMES
    assert report.losses == {"truncated_stacks": 2}
    (note,) = notes(report)
    assert names(note, 64, "frames")


def test_without_any_walker_by_tables(compiled: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WITHOUT, "tail_calls,single")
    program = compiled("stack_walkers.c", "-fno-omit-frame-pointer")
    report = trace_work([program], drive=work("inner 1001")).report
    assert site_of(report, 1001).functions[:3] == ("scenario_inner", "scenario_outer", "main")
    assert end_of(report, 1001) == "unknown"
    (note,) = notes(report)
    assert "frame pointers" in note


def test_unwind_tables_or_nothing(walkers: Path) -> None:
    """A requested walker isn't silently replaced."""
    with Target([walkers]) as target:
        target.await_ready()
        options = ["-p", str(target.pid), "--stack-walker", "eh_frame", *ONE_REPORT, NEVER]
        outcome = run_leaktrace(*options, env={WITHOUT: "tail_calls,single"})
        assert target.end() == 0
    assert outcome.exit_code == 3
    message, hint = outcome.stderr.splitlines()[-2:]
    assert "unwind tables" in message
    assert "--stack-walker" in hint


# --- how deep --------------------------------------------------------------------------------


def test_a_stack_as_deep_as_the_walk_goes(walkers: Path) -> None:
    fits = MAX_FRAMES - LIBC - 1
    commands = [f"dig {fits + beyond} {1010 + beyond}" for beyond in range(-2, 3)]
    report = trace_work([walkers], drive=work(*commands, "dig 2000 1020")).report
    for beyond in (-2, -1, 0):
        assert end_of(report, 1010 + beyond) == "complete"
        assert len(site_of(report, 1010 + beyond).frames) == MAX_FRAMES + beyond
    for size in (1011, 1012, 1020):
        assert end_of(report, size) == "truncated"
        assert len(site_of(report, size).frames) == MAX_FRAMES
    assert report.losses == {"truncated_stacks": 3}


def test_every_walk_is_counted_not_every_stack(walkers: Path) -> None:
    """The counters are of allocations; the ends in the report are of sites."""
    commands = ["dig 200 1001"] * 7 + ["generated lost 1"] * 5 + ["generated kept 100"] * 3
    report = trace_work([walkers], drive=work(*commands)).report
    assert report.losses == {"truncated_stacks": 7, "generated_code": 5, "guessed_stacks": 3}
    assert report.raw["stack_ends"] == {"truncated": 1, "broken": 1, "guessed": 1}


# --- code without unwind information ---------------------------------------------------------


def test_generated_code_that_keeps_a_frame_pointer(walkers: Path) -> None:
    commands = ["generated kept 1001", "generated nested 1002", "generated direct 1003"]
    report = trace_work([walkers], drive=work(*commands)).report
    above = ("scenario_generated", "main")
    assert site_of(report, 1001).functions[:4] == ("scenario_called_back", None, *above)
    assert site_of(report, 1002).functions[:6] == (
        "scenario_called_back",
        None,
        "scenario_nested",
        None,
        *above,
    )
    assert site_of(report, 1003).functions[:3] == (None, *above)
    for size in (1001, 1002, 1003):
        site = site_of(report, size)
        assert site.raw["stack_end"] == "guessed"
        assert site.functions[-1] == "_start"
        assert all("made at run time" in f.unknown for f in site.frames if f.unknown)
    assert report.losses == {"guessed_stacks": 3}


def test_generated_code_that_is_in_no_list_yet(walkers: Path) -> None:
    """The loader has not loaded it, so it has no table, and none will come."""
    report = trace_work([walkers], drive=work("renew", "generated kept 1001")).report
    above = ("scenario_called_back", None, "scenario_generated", "main")
    assert site_of(report, 1001).functions[:4] == above
    assert end_of(report, 1001) == "guessed"
    assert report.losses == {"guessed_stacks": 1}


def test_generated_code_without_a_frame_pointer(walkers: Path) -> None:
    """Up to there the stack is right, and it is marked as broken off."""
    report = trace_work([walkers], drive=work("generated lost 1001")).report
    site = site_of(report, 1001)
    assert site.functions == ("scenario_called_back", None)
    assert site.raw["stack_end"] == "broken"
    assert report.losses == {"generated_code": 1}


def test_generated_code_that_returns_at_once(walkers: Path) -> None:
    """It keeps no frame pointer, but its instructions say where its caller is."""
    report = trace_work([walkers], drive=work("generated returning 1001")).report
    site = site_of(report, 1001)
    above = ("scenario_generated", "main")
    assert site.functions[:4] == ("scenario_called_back", None, *above)
    assert site.functions[-1] == "_start"
    assert site.raw["stack_end"] == "complete"
    assert report.losses == {}


# --- return probes of others -----------------------------------------------------------------


def test_a_return_probe_of_another_tool_ends_the_walk(walkers: Path) -> None:
    with Target([walkers]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), *ONE_REPORT, "0.2") as tracer:
            tracer.await_armed()
            target.do("inner 1001")  # the first hit of a probe maps the page of trampolines
            while not tracer.next_report().sites:
                pass
            with return_probe(walkers, ["scenario_outer"], target.pid):
                target.do("inner 1002")
            with return_probe(walkers, ["scenario_inner", "scenario_outer"], target.pid):
                target.do("inner 1003")
            target.do("inner 1004")
            report = tracer.stop().reports[-1]
        assert target.end() == 0
    assert site_of(report, 1002).functions == ("scenario_inner", "scenario_outer")
    assert site_of(report, 1003).functions == ("scenario_inner",)
    assert end_of(report, 1002) == end_of(report, 1003) == "broken"
    assert end_of(report, 1001 + 1004) == "complete"  # one site, before and after
    assert report.losses == {"foreign_probes": 2}
