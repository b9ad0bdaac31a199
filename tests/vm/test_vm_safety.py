"""tests/safety on other kernels: what probes do to a process, and the gate's worst cases.

Kills, long runs and versions of libraries are left to the host: emulated machines are slow. So is
what the short form leaves out here: it depends the least on the kernel.
"""

from __future__ import annotations

import sys

import pytest
from harness.length import chosen
from harness.tracer import REPOSITORY
from vm.guest import Guest

FILES = chosen(
    ["test_breakpoints.py", "test_points.py", "test_seccomp.py"],
    ["test_children.py", "test_patched.py", "test_red_zone.py"],
)
GATE = "tests/safety/test_gate.py::test_a_traced_program_does_what_it_does_untraced"
CASES = chosen(
    ["cancelled inside-glibc-started", "two coroutines-glibc-attached"],
    [
        "new throws-jemalloc-started",
        "new throws-static glibc-attached",
        "a handler jumps out-static glibc-started",
        "frames seen in malloc-static glibc-attached",
        "eight workers-static glibc-started",
    ],
)


def run_inside(guest: Guest, *arguments: str) -> None:
    outcome = guest.run(
        sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
        "-c", REPOSITORY / "pyproject.toml", *arguments,
    )  # fmt: skip
    print(outcome.stdout)
    assert outcome.exit_code == 0, outcome.stdout + outcome.stderr


@pytest.mark.parametrize("file", FILES)
def test_what_probes_do(guest: Guest, file: str) -> None:
    run_inside(guest, str(REPOSITORY / "tests/safety" / file))


@pytest.mark.parametrize("case", CASES)
def test_the_gate(guest: Guest, case: str) -> None:
    run_inside(guest, f"{REPOSITORY / GATE}[{case}]")
