"""The line at the start of tracing: what is hooked, and when reports are due."""

from __future__ import annotations

import pytest
from harness.tracer import run_leaktrace

pytestmark = pytest.mark.usefixtures("require_bpf")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "a report every 5 s"),
        (["0.5"], "a report every 0.5 s"),
        (["17298"], "a report every 4h48m"),
        (["60", "1"], "one report, after 1m00s"),
        (["2", "17297"], "17,297 reports, one every 2 s"),
        (["-t"], "one report, at the end"),
        (["-t", "7", "3"], "one report, after 3 times 7 s"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_when_reports_are_due(arguments: list[str], said: str) -> None:
    outcome = run_leaktrace(*arguments, "--", "true")
    assert outcome.exit_code == 0, outcome.stderr
    (line,) = [line for line in outcome.stderr.splitlines() if "tracing pid" in line]
    assert line.endswith(f"; {said}")
