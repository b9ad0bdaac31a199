"""A process that runs out of memory: the last report, which outlives it, says what it held."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.compiling import Compiler
from harness.reports import Report
from harness.tracer import NEVER, ONE_REPORT, Tracer, run_leaktrace
from harness.wording import lines_naming

pytestmark = pytest.mark.usefixtures("require_bpf")

LIMIT_BYTES = 48 << 20
SCORE = Path("/proc/self/oom_score_adj")


@pytest.fixture
def small_cgroup() -> Iterator[Path]:
    """A control group whose processes have little memory: its file of processes."""
    for root, limit in (
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
        ("/sys/fs/cgroup", "memory.max"),
    ):
        group = Path(root, f"leaktrace-test-{os.getpid()}")
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / limit).write_text(str(LIMIT_BYTES))
            yield group / "cgroup.procs"
        except OSError:
            continue
        else:
            return
        finally:
            group.rmdir()
    pytest.skip("no control group can limit memory here")


def growing(group: Path, program: Path) -> list[str]:
    """A command that moves itself into the group, and then keeps all that it allocates."""
    return ["sh", "-c", f'echo $$ >{group}; exec {program} "$@"', "sh", "forever"]


def test_what_it_held_when_it_was_killed(
    small_cgroup: Path, compiled: Compiler, tmp_path: Path
) -> None:
    reports = tmp_path / "reports"
    outcome = run_leaktrace(
        *ONE_REPORT, "--output", reports, NEVER, "--",
        *growing(small_cgroup, compiled("runs_out.c")),
    )  # fmt: skip
    assert outcome.exit_code == 0, outcome.stderr
    report = Report(reports.read_text().splitlines()[-1])
    assert report.final
    assert report.raw["ending"] == {"status": None, "signal": 9, "oom_killed": True}
    kept = int(outcome.stdout.split()[-1])  # the program's own account
    held = report.under("scenario_keep")
    assert kept <= held.count <= kept + 1  # it was killed before it could count the last one
    assert report.losses == {}


def test_in_words(small_cgroup: Path, compiled: Compiler) -> None:
    words = growing(small_cgroup, compiled("runs_out.c"))
    outcome = run_leaktrace("--output", "/dev/stderr", NEVER, "--", *words)
    assert lines_naming(outcome.stderr, "final report", "killed", "OOM killer")


def test_a_kill_is_not_taken_for_it(tmp_path: Path) -> None:
    reports = tmp_path / "reports"
    run_leaktrace(*ONE_REPORT, "--output", reports, NEVER, "--", "sh", "-c", "kill -KILL $$")
    report = Report(reports.read_text().splitlines()[-1])
    assert report.raw["ending"] == {"status": None, "signal": 9, "oom_killed": False}


def test_leaktrace_is_protected_where_that_is_allowed_and_its_command_is_not() -> None:
    attempt = f"import pathlib; pathlib.Path({str(SCORE)!r}).write_text('-900')"
    is_allowed = subprocess.run(
        [sys.executable, "-c", attempt], check=False, stderr=subprocess.DEVNULL
    )
    before = SCORE.read_text()
    words = ["sh", "-c", f"cat {SCORE}; echo; exec sleep 3600"]
    with Tracer("--output", "/dev/null", NEVER, "--", *words) as tracer:
        tracer.await_armed()
        assert tracer.stdout.next() == before.strip()
        own = Path(f"/proc/{tracer.pid}/oom_score_adj").read_text()
        assert own == ("-900\n" if is_allowed.returncode == 0 else before)
        tracer.stop()
