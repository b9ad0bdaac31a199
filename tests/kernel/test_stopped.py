"""A stopped target: reports say so while it lasts, and what stopped it."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness.compiling import Compiler
from harness.debugger import Debugger
from harness.processes import await_true
from harness.target import Target
from harness.tracer import ONE_REPORT, Outcome, Tracer, run_leaktrace
from harness.wording import lines_naming, names, notes_naming

pytestmark = pytest.mark.usefixtures("require_bpf")

STOPPED = "stopped"  # what every message about it names


def state(pid: int) -> str:
    found = re.search(r"^State:\s+(\S)", Path(f"/proc/{pid}/status").read_text(), re.M)
    assert found is not None
    return found[1]


def trace(target: Target, format_name: str = "json") -> Outcome:
    outcome = run_leaktrace("-p", str(target.pid), *ONE_REPORT, "-f", format_name, "0.2", "2")
    assert outcome.exit_code == 0, outcome.stderr
    return outcome


def assert_told(target: Target, *words: str) -> None:
    """At the start, and in each report."""
    outcome = trace(target)
    (start,) = lines_naming(outcome.stderr, STOPPED)
    notes = [note for report in outcome.reports for note in notes_naming(report, STOPPED)]
    assert len(notes) == 2
    for said in (start, *notes):
        assert names(said, *words), said


def assert_not_told(target: Target) -> None:
    outcome = trace(target)
    assert not names(outcome.stderr + outcome.stdout, STOPPED)


@pytest.fixture
def target(compiled: Compiler) -> Iterator[Target]:
    with Target([compiled("commands.c")]) as running:
        running.await_ready()
        assert_not_told(running)
        yield running
        assert running.do("malloc 1 1") == ()
        assert_not_told(running)
        assert running.end() == 0


@contextmanager
def stopped(target: Target) -> Iterator[None]:
    os.kill(target.pid, signal.SIGSTOP)
    await_true(lambda: state(target.pid) == "T")
    try:
        yield
    finally:
        os.kill(target.pid, signal.SIGCONT)
        await_true(lambda: state(target.pid) != "T")


def test_by_a_signal(target: Target) -> None:
    with stopped(target):
        assert_told(target, "SIGSTOP", f"kill -CONT {target.pid}")


@pytest.mark.parametrize("format_name", ["text", "memleak"])
def test_each_report_says_so_in_every_format(format_name: str, target: Target) -> None:
    with stopped(target):
        outcome = trace(target, format_name)
    assert len(lines_naming(outcome.stdout + outcome.stderr, STOPPED)) == 3


def test_a_report_after_it_continues_has_no_note(target: Target) -> None:
    with stopped(target), Tracer("-p", str(target.pid), "-f", "json", "0.2") as tracer:
        tracer.await_armed()
        assert notes_naming(tracer.next_report(), STOPPED)
        os.kill(target.pid, signal.SIGCONT)
        while notes_naming(tracer.next_report(), STOPPED):
            pass
        assert tracer.stop().exit_code == 0


def test_by_a_debugger(target: Target, require_tool: Callable[[str], str]) -> None:
    with Debugger(require_tool("gdb"), target.pid) as debugger:
        await_true(lambda: state(target.pid) == "t")
        assert_told(target, "debugger", f"gdb (process {debugger.pid})")
    await_true(lambda: state(target.pid) != "t")


FREEZERS = {"v2": ("cgroup2", ""), "v1": ("cgroup", "freezer")}


def freezer(version: str) -> Path:
    """A directory in which cgroups of that version can be made and frozen."""
    kind, option = FREEZERS[version]
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, mounted, options, *_ = line.split()
        if mounted == kind and (not option or option in options.split(",")):
            return Path(place)
    pytest.skip(f"needs a cgroup {version} hierarchy that can freeze")


@contextmanager
def cgroup(version: str, name: str) -> Iterator[Path]:
    try:
        folder = freezer(version) / name
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"needs cgroups that can be written: {error}")
    try:
        yield folder
    finally:
        await_true(lambda: not (folder / "cgroup.procs").read_text())
        folder.rmdir()


@pytest.mark.may_skip("not every machine has both versions, and containers may write neither")
@pytest.mark.parametrize("version", FREEZERS)
def test_by_a_frozen_cgroup(version: str, target: Target) -> None:
    """The frozen cgroup is named: in v2 here the parent of the process's."""
    with cgroup(version, f"leaktrace-test-{os.getpid()}") as outer:
        inner = outer / "inner"
        inner.mkdir()
        before = freezer(version) / "cgroup.procs"
        file, freeze, thaw = {
            "v2": ("cgroup.freeze", "1", "0"),
            "v1": ("freezer.state", "FROZEN", "THAWED"),
        }[version]
        try:
            (inner / "cgroup.procs").write_text(str(target.pid))
            (outer / file).write_text(freeze)
            shown = {
                "v2": lambda: "frozen 1" in (inner / "cgroup.events").read_text(),
                "v1": lambda: "FROZEN" in (inner / "freezer.state").read_text(),
            }[version]
            await_true(shown)
            assert_told(target, "frozen", str(outer))
        finally:
            (outer / file).write_text(thaw)
            before.write_text(str(target.pid))
            await_true(lambda: not (inner / "cgroup.procs").read_text())
            inner.rmdir()
