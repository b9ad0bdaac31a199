"""Probes in the middle of functions: each kind of instruction has the same effect with a probe.

Threads call the functions, and are interrupted by signals whose handler calls them too. jcc, jmp,
call, push and nop are emulated by the kernel; ret is executed out of line, under single-step.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from harness.compiling import Compiler
from harness.probes import offset_of
from harness.target import Target
from harness.text import probed, text_at

from leaktrace.bpf.links import UprobeLinks

pytestmark = [
    pytest.mark.usefixtures("require_bpf", "counting"),
    pytest.mark.skipif(os.uname().machine != "x86_64", reason="the instructions are x86-64's"),
]

FUNCTIONS = ["on_jcc", "on_jmp", "on_call", "on_push", "on_nop", "on_ret"]
THREADS, CALLS = 4, 5_000


@pytest.mark.parametrize("function", FUNCTIONS)
def test_results_and_hits_are_exact_under_signals(
    compiled: Compiler, kind: UprobeLinks, function: str
) -> None:
    program = compiled("points.c")
    point = offset_of(program, f"{function}_point")
    with Target([program]) as target:
        target.await_ready()
        original = text_at(target.pid, program, point, 8)
        with probed(kind, program, [point], target.pid) as probes:
            wrong, calls = target.do(f"{function} {THREADS} {CALLS}")
            assert (wrong, probes.hits) == (0, calls)
            assert calls >= THREADS * CALLS
        assert text_at(target.pid, program, point, 8) == original
        assert target.end() == 0


def test_all_at_once(compiled: Compiler, kind: UprobeLinks) -> None:
    program = compiled("points.c")
    points = [offset_of(program, f"{function}_point") for function in FUNCTIONS]
    with Target([program]) as target:
        target.await_ready()
        with probed(kind, program, points, target.pid) as probes:
            accounts = [target.do(f"{function} 2 1000") for function in FUNCTIONS]
            assert [wrong for wrong, _ in accounts] == [0] * len(FUNCTIONS)
            assert probes.hits == sum(calls for _, calls in accounts)
        assert target.end() == 0


# Where the kernel executes instructions out of line, it maps a page into the process.
@pytest.mark.parametrize(
    ("function", "is_stepped"), [("on_jcc", False), ("on_call", False), ("on_ret", True)]
)
def test_what_is_emulated_maps_nothing_into_the_process(
    compiled: Compiler, kind: UprobeLinks, function: str, is_stepped: bool
) -> None:
    program = compiled("points.c")
    with Target([program]) as target:
        target.await_ready()
        with probed(kind, program, [offset_of(program, f"{function}_point")], target.pid):
            target.do(f"{function} 1 100")
            maps = Path(f"/proc/{target.pid}/maps").read_text()
            assert ("[uprobes]" in maps) == is_stepped
