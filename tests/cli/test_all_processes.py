"""--all-processes on the command line: what can't be combined with it. Checked before anything is
read."""

from __future__ import annotations

import pytest
from harness.tracer import run_leaktrace
from harness.wording import names

USAGE = 2
CONTRADICTIONS = [
    ["-p", "1"],
    ["-c", "true"],
    ["--kernel"],
    ["--faults"],
    ["-O", "libc.so.6"],
    ["-t"],
    ["-a"],
    ["-s", "10"],
    ["--sample-bytes", "1000"],
    ["-z", "1"],
    ["-Z", "100"],
    ["-o", "100"],
    ["--sort", "size"],
    ["--combined-only"],
    ["--symbols-prefix", "je_"],
    ["--max-allocs", "10"],
    ["--max-overhead", "5"],
    ["--depth", "3"],
    ["--exit-code", "own"],
    ["--pages"],
    ["--task", "1"],
]


@pytest.mark.parametrize("options", CONTRADICTIONS, ids=lambda options: options[0])
def test_options_of_tracing_are_refused(options: list[str]) -> None:
    outcome = run_leaktrace("--all-processes", *options)
    assert outcome.exit_code == USAGE, outcome.stderr
    assert outcome.stdout == ""
    happened, hint = outcome.stderr.splitlines()
    assert names(happened, options[0], "--all-processes")
    assert hint.startswith("  hint: ")


def test_a_command_is_refused() -> None:
    outcome = run_leaktrace("--all-processes", "--", "true")
    assert outcome.exit_code == USAGE
    assert "--all-processes" in outcome.stderr.splitlines()[0]


def test_memleaks_format_is_refused() -> None:
    outcome = run_leaktrace("--all-processes", "-f", "memleak")
    assert outcome.exit_code == USAGE
    happened, hint = outcome.stderr.splitlines()
    assert names(happened, "memleak", "--all-processes")
    assert names(hint, "text", "json")


def test_the_program_can_be_printed() -> None:
    outcome = run_leaktrace("--all-processes", "--ebpf")
    assert outcome.exit_code == 0, outcome.stderr
    assert "on_fault" in outcome.stdout
    assert outcome.stdout.count("{") == outcome.stdout.count("}")
