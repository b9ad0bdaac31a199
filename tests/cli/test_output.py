"""Standard output as scripts read it."""

from __future__ import annotations

import subprocess
import sys

import pytest
from harness.lines import DEADLINE_S
from harness.tracer import tracer_environment

WRITER = """
import signal, sys
from leaktrace.report import create_reporter, open_output

signal.signal(signal.SIGALRM, lambda number, frame: None)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
with open_output(None) as output:
    reporter = create_reporter("json", output.stream, sys.stderr)
    for number in range(20):
        reporter.write(f"{number:07d}\\n" * 40000)
signal.setitimer(signal.ITIMER_REAL, 0)
"""


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_signals_cut_no_report_short(unbuffered: str) -> None:
    """Writes larger than a pipe, interrupted a thousand times per second. With PYTHONUNBUFFERED,
    which many containers set, Python's own stdout loses the rest of such a write."""
    written = subprocess.run(
        [sys.executable, "-c", WRITER],
        stdout=subprocess.PIPE,
        env=tracer_environment({"PYTHONUNBUFFERED": unbuffered}),
        timeout=DEADLINE_S,
        check=True,
    ).stdout
    assert written == b"".join(b"%07d\n" % number * 40000 for number in range(20))
