"""--exit-code leak: a script learns from the exit status whether the program leaks."""

from __future__ import annotations

import pytest
from harness.compiling import Compiler
from harness.target import Target
from harness.tracer import run_leaktrace

pytestmark = pytest.mark.usefixtures("require_bpf")

PROGRAM = "../../examples/leak.c"
# It keeps 4,096 bytes for each of 10 requests in a round of 50 ms, for ever:
# at most 800 KiB/s.
FASTER_THAN_IT = "900K"


def test_a_leak_is_an_exit_status(compiled: Compiler) -> None:
    with Target([compiled(PROGRAM)]) as target:
        run = ["-p", str(target.pid), "--exit-code", "leak=42", "0.5", "14"]
        leaks = run_leaktrace(*run)
        slower = run_leaktrace(*run, "--leak-threshold", FASTER_THAN_IT)
        early = run_leaktrace(*run[:-2], "0.1", "1")
    assert "GROWING" in leaks.stdout
    assert leaks.exit_code == 42, leaks.stderr
    assert "one site grows: exit status 42" in leaks.stderr
    assert "GROWING" in slower.stdout
    assert slower.exit_code == 0, slower.stderr
    assert early.exit_code == 0, early.stderr
    assert "no report had a verdict: the exit status says nothing" in early.stderr
