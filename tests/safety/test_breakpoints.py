"""Breakpoints that are left in a process or removed from it, and how the kernel repairs that.

Attaching probes at the same offsets and closing them makes it examine every process that has the
file mapped: it writes a breakpoint where a probe belongs, and the original instruction elsewhere.
Sources: kernel/events/uprobes.c (register_for_each_vma, filter_chain, set_orig_insn).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from harness.compiling import Compiler
from harness.debugger import Debugger
from harness.lines import DEADLINE_S
from harness.probes import offset_of
from harness.target import Target
from harness.text import BREAKPOINT, address_of, probed, text_at, write_text

from leaktrace.bpf.links import UprobeLinks

pytestmark = [
    pytest.mark.usefixtures("require_bpf", "counting"),
    pytest.mark.skipif(os.uname().machine != "x86_64", reason="the instructions are x86-64's"),
]

FUNCTION, CALLS = "on_push", 100
WORK = f"{FUNCTION} 1 {CALLS}"


@pytest.fixture
def program(compiled: Compiler) -> Path:
    return compiled("points.c")


@pytest.fixture
def point(program: Path) -> int:
    return offset_of(program, f"{FUNCTION}_point")


def refresh(kind: UprobeLinks, program: Path, point: int, pid: int) -> None:
    with probed(kind, program, [point], pid):
        pass


def test_children_forked_meanwhile_are_freed_of_them(
    program: Path, point: int, kind: UprobeLinks
) -> None:
    """Their parent's probes stay."""
    with Target([program]) as target:
        target.await_ready()
        original = text_at(target.pid, program, point, 1)
        with probed(kind, program, [point], target.pid) as probes:
            children = [target.do("fork")[0] for _ in range(3)]
            assert {text_at(child, program, point, 1) for child in children} == {BREAKPOINT}
            refresh(kind, program, point, target.pid)
            assert {text_at(child, program, point, 1) for child in children} == {original}
            assert text_at(target.pid, program, point, 1) == BREAKPOINT
            _, calls = target.do(WORK)
            assert probes.hits == calls


def test_an_overwritten_breakpoint_is_restored(
    program: Path, point: int, kind: UprobeLinks
) -> None:
    """A debugger whose breakpoint was there before the probe writes the original."""
    with Target([program]) as target:
        target.await_ready()
        original = text_at(target.pid, program, point, 1)
        with probed(kind, program, [point], target.pid) as probes:
            write_text(target.pid, program, point, original)
            target.do(WORK)
            assert probes.hits == 0
            refresh(kind, program, point, target.pid)
            _, calls = target.do(WORK)
            assert probes.hits == calls
        assert text_at(target.pid, program, point, 1) == original


def test_a_leftover_kills_unless_it_is_removed(
    program: Path, point: int, kind: UprobeLinks
) -> None:
    for is_refreshed in (False, True):
        with Target([program]) as target:
            target.await_ready()
            original = text_at(target.pid, program, point, 1)
            refresh(kind, program, point, target.pid)
            write_text(target.pid, program, point, BREAKPOINT)
            if is_refreshed:
                refresh(kind, program, point, target.pid)
                assert text_at(target.pid, program, point, 1) == original
                assert target.do(WORK)[0] == 0
                assert target.end() == 0
            else:
                target.send(WORK)
                assert target.process.wait(DEADLINE_S) == -signal.SIGTRAP


def test_what_a_debugger_leaves_when_probes_go_before_its_breakpoint(
    program: Path, point: int, kind: UprobeLinks, require_tool: Callable[[str], str]
) -> None:
    """It takes our breakpoint for the program's own byte, and writes it back when it leaves."""
    gdb = require_tool("gdb")
    with Target([program]) as target:
        target.await_ready()
        original = text_at(target.pid, program, point, 1)
        with ExitStack() as at_end:
            with probed(kind, program, [point], target.pid):
                debugger = at_end.enter_context(Debugger(gdb, target.pid))
                debugger.run_with_breakpoint(address_of(target.pid, program, point))
            assert text_at(target.pid, program, point, 1) == original
            debugger.leave()
        assert text_at(target.pid, program, point, 1) == BREAKPOINT
        refresh(kind, program, point, target.pid)
        assert text_at(target.pid, program, point, 1) == original
        assert target.do(WORK)[0] == 0
        assert target.end() == 0
