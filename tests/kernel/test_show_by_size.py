"""A recording of a real program, by the sizes of its blocks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from harness.compiling import Compiler
from harness.tracer import run_leaktrace

pytestmark = pytest.mark.usefixtures("require_bpf")
OF_ITSELF = "load_table|make_pair|open_session"
# What compared.c keeps: a hundred blocks of 1000, 10 and 20 bytes, and 200 of 500.
KEPT = {(512, 1024): (100_000, 100), (256, 512): (100_000, 200), (8, 16): (1_000, 100),
        (16, 32): (2_000, 100)}  # fmt: skip


def record(tmp_path: Path, compiled: Compiler, *options: str) -> Path:
    recording = tmp_path / "run.rec"
    program = compiled("compared.c")
    outcome = run_leaktrace("-o", "0", *options, "--record", recording, "-c", program)
    assert outcome.exit_code == 0, outcome.stderr
    return recording


def test_blocks_are_at_their_sizes(tmp_path: Path, compiled: Compiler) -> None:
    recording = record(tmp_path, compiled)
    outcome = run_leaktrace("show", recording, "--by", "size", "--focus", OF_ITSELF, "-f", "json")
    assert outcome.exit_code == 0, outcome.stderr
    rows = json.loads(outcome.stdout)["rows"]
    assert {
        (row["from_bytes"], row["below_bytes"]): (row["bytes"], row["count"]) for row in rows
    } == KEPT
    assert all(sum(site["count"] for site in row["sites"]) == row["count"] for row in rows)
    everything = run_leaktrace("show", recording, "--by", "size", "-T", "65", "-f", "json")
    shown = json.loads(everything.stdout)
    report = json.loads(run_leaktrace("show", recording, "-f", "json", "-T", "9999").stdout)
    assert sum(row["own"] for row in shown["rows"]) == sum(one["bytes"] for one in report["sites"])
    for site in report["sites"]:
        assert sum(site["sizes"]["bytes"]) == site["bytes"]
        assert sum(site["sizes"]["counts"]) == site["count"]


def test_combined_statistics_have_no_sizes(tmp_path: Path, compiled: Compiler) -> None:
    recording = record(tmp_path, compiled, "--combined-only")
    outcome = run_leaktrace("show", recording, "--by", "size")
    assert (outcome.exit_code, outcome.stdout) == (2, "")
    assert "--combined-only" in outcome.stderr
