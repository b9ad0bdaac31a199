"""Help and version, which need no privilege, no kernel and no bcc."""

from __future__ import annotations

import pytest
from harness.tracer import REPOSITORY, run_leaktrace


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help(option: str) -> None:
    outcome = run_leaktrace(option)
    assert outcome.exit_code == 0, outcome.stderr
    assert outcome.stderr == ""
    assert "Usage: leaktrace" in outcome.stdout
    assert all(len(line) <= 80 for line in outcome.stdout.splitlines())


def test_help_has_memleaks_options() -> None:
    """The options that users of memleak know."""
    text = run_leaktrace("--help").stdout
    for option in (
        "-p, --pid", "-t, --trace", "-a, --show-allocs", "-o, --older", "-c, --command",
        "--combined-only", "--wa-missing-free", "-s, --sample-rate", "-T, --top",
        "-z, --min-size", "-Z, --max-size", "-O, --obj", "--ebpf", "--symbols-prefix",
    ):  # fmt: skip
        assert option in text, option


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_version(option: str) -> None:
    source = (REPOSITORY / "src/leaktrace/__init__.py").read_text()
    outcome = run_leaktrace(option)
    assert outcome.exit_code == 0, outcome.stderr
    version = outcome.stdout.split()[-1]
    assert f'"{version}"' in source


_SUB_COMMANDS = ["diff", "doctor", "dump", "go", "heap", "maps", "mark", "show", "top"]


@pytest.mark.parametrize("command", _SUB_COMMANDS)
def test_sub_commands_have_help(command: str) -> None:
    outcome = run_leaktrace(command, "--help")
    assert outcome.exit_code == 0, outcome.stderr
    assert command in outcome.stdout


def test_ebpf_prints_the_program_and_traces_nothing() -> None:
    outcome = run_leaktrace("--ebpf", "-p", "1")
    assert outcome.exit_code == 0, outcome.stderr
    assert "sched_process_exec" in outcome.stdout
    assert outcome.stdout.count("{") == outcome.stdout.count("}")
