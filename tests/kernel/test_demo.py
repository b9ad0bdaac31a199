"""The program that `make demo` traces leaks exactly what it says, and the demo shows it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from harness.compiling import Compiler
from harness.reports import Total
from harness.tracer import ONE_REPORT, run_leaktrace, tracer_environment

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
    started = re.search(r"leaktrace -p (\d+) 2 2", result.stdout)
    assert started is not None
    assert not Path(f"/proc/{started[1]}").exists()
    for report in result.stdout.split("outstanding ")[1:]:
        top_site = report.split("\n\n")[1]
        assert "remember_request" in top_site.splitlines()[1]
        assert "build_response" not in report.split("What you see")[0]
