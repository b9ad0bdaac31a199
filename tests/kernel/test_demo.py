"""The program that `make demo` traces leaks exactly what it says, and the demo shows it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from harness.compiling import Compiler
from harness.reports import Total
from harness.tracer import NEVER, ONE_REPORT, run_leaktrace, tracer_environment

pytestmark = pytest.mark.usefixtures("require_bpf")

PROGRAM = "../../examples/leak.c"
ROUND = Total(bytes=40_960, count=10)  # as the comment on top of the program says


def test_every_remembered_request_is_found_and_nothing_else(compiled: Compiler) -> None:
    outcome = run_leaktrace(*ONE_REPORT, "-c", f"{compiled(PROGRAM)} 7", "3600")
    assert outcome.exit_code == 0
    report = outcome.reports[-1]
    assert report.outstanding == Total(7 * ROUND.bytes, 7 * ROUND.count)
    assert report.sites[0].functions[:3] == ("remember_request", "handle_request", "main")
    # The stacks of the very first requests may break off: their code was mapped a moment before.
    assert {site.functions[0] for site in report.sites} == {"remember_request"}


def test_the_pool_of_the_readme(compiled: Compiler, repository: Path) -> None:
    """README.md shows what leaktrace prints, but for what differs in each run."""
    readme = (repository / "README.md").read_text(encoding="utf-8")
    begin = readme.index("    leaktrace  pool (pid")
    shown = re.split(r"^\S", readme[begin:], maxsplit=1, flags=re.MULTILINE)[0]
    program = compiled("../../examples/pool.c")
    outcome = run_leaktrace("-c", f"{program} 100", "--pair", "buffer_get:buffer_put:2:2", NEVER)
    assert outcome.exit_code == 0, outcome.stderr
    printed = figures(outcome.stdout.replace(program.name, "pool"))
    assert len(printed) > 8
    assert printed == figures(shown)


def figures(report: str) -> list[str]:
    """The totals, the sites, their functions in the program, and what was lost."""
    text = re.sub(r"\d+ functions|\(pid \d+\)|process \d+|\d+\.\d s\b|RSS.*", "", report)
    text = re.sub(r"watched for .*|within .*", "", text)
    text = re.sub(
        r"oldest \S+ +[0-9a-f]{6,16}$|\+0x[0-9a-f]+|\S*(?=/examples)", "", text, flags=re.M
    )
    lines = [" ".join(line.split()) for line in text.splitlines()]
    return [line for line in lines if line and not line.endswith("[libc.so.6]")]


def test_the_demo_shows_the_leak_and_leaves_nothing_running(
    compiled: Compiler, repository: Path, tmp_path: Path
) -> None:
    leaktrace = tmp_path / "leaktrace"
    leaktrace.write_text(f'#!/bin/sh\nexec {sys.executable} -m leaktrace "$@"\n')
    leaktrace.chmod(0o755)
    result = subprocess.run(
        [str(repository / ".ci/demo"), str(leaktrace), str(compiled(PROGRAM))],
        env=tracer_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    started = re.search(r"leaktrace -p (\d+) 2 3", result.stdout)
    assert started is not None
    assert not Path(f"/proc/{started[1]}").exists()
    for report in result.stdout.split("\noutstanding ")[1:]:
        top_site = report.split("\n\n")[1]
        # Below the figures, and the evidence.
        first = next(line for line in top_site.splitlines()[1:] if "[" in line)
        assert "remember_request" in first
        assert "build_response" not in report.split("What you see")[0]
    assert "\nGROWING +" in result.stdout
