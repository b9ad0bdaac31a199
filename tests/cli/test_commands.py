"""The registry of commands, and the errors for a wrong command line."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import click
import pytest
from harness.tracer import run_leaktrace

from leaktrace.cli.commands import COMMANDS

USAGE = 2


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_can_be_loaded(name: str) -> None:
    command = COMMANDS[name]
    assert isinstance(command, click.Command)
    assert command.name == name
    assert command.help


def test_help_lists_the_commands_and_imports_none() -> None:
    script = (
        "import contextlib, sys\n"
        "from leaktrace.cli.trace import command\n"
        "with contextlib.suppress(SystemExit): command(['--help'])\n"
        "print([name for name in sys.modules if name.startswith('leaktrace.cli.doctor')])\n"
        "print('numpy' in sys.modules)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    for name, summary in COMMANDS.summaries():
        assert re.search(rf"^  {name} +{re.escape(summary)}$", result.stdout, re.M)
    assert result.stdout.splitlines()[-2:] == ["[]", "False"]


def refused(*arguments: str) -> tuple[str, str]:
    """What happened and what to do."""
    outcome = run_leaktrace(*arguments)
    assert (outcome.exit_code, outcome.stdout) == (USAGE, "")
    happened, hint = outcome.stderr.splitlines()
    assert hint.startswith("  hint: ")
    return happened, hint


def test_a_lone_process_id() -> None:
    happened, hint = refused(str(os.getpid()))
    assert "INTERVAL" in happened
    assert f"did you mean -p {os.getpid()}?" in hint


@pytest.mark.parametrize(
    ("arguments", "named", "advised"),
    [
        (["dcotor"], "'dcotor'", "leaktrace doctor"),
        (["httpd"], "'httpd'", "leaktrace -p PID"),
        (["--verbos"], "--verbos", "--verbose"),
        (["doctor", "--jsno"], "--jsno", "--json"),
        (["doctor", "--xyzzy"], "--xyzzy", "leaktrace doctor --help"),
        (["doctor", "-p", "x"], "-p/--pid", "pgrep"),
        (["doctor", "-p", "1", "2"], "2", "leaktrace doctor -p PID"),
        (["heap"], "--core FILE", "leaktrace heap -p PID"),
        (["heap", "-p", "1", "--max-pause-ms", "0"], "--max-pause-ms", "leaktrace heap --help"),
        (["heap", "-p", "1", "1", "2", "3"], "unexpected words: 3", "leaktrace heap -p PID"),
        (["go"], "-p PID", "leaktrace go -p PID"),
        (["go", "-p", "1", "1", "2", "3"], "unexpected words: 3", "leaktrace go -p PID"),
        (["go", "-p", "1", "-T", "0"], "-T/--top", "leaktrace go --help"),
        (["maps"], "-p PID", "leaktrace maps -p PID"),
        (["maps", "-p", "1", "x"], "INTERVAL takes a number of seconds above 0: 'x'", "maps"),
        (["maps", "-p", "1", "0"], "INTERVAL takes a number of seconds above 0: 0", "maps --help"),
        (["maps", "-p", "1", "1", "0"], "COUNT", "leaktrace maps --help"),
        (["maps", "-p", "1", "-T", "0"], "-T/--top", "leaktrace maps --help"),
        (["maps", "-p", "1", "-p", "2"], "-p/--pid takes one value", "leaktrace for each"),
        (["maps", "-p", "x"], "-p/--pid takes one process id", "pgrep"),
        (["maps", "-p", "1", "1", "2", "3"], "unexpected words: 3", "leaktrace maps -p PID"),
        (["maps", "-p", "1", "-f", "memleak"], "-f/--format", "leaktrace maps --help"),
        (["-p", "1", "-T", "0"], "-T/--top", "--help"),
        (["-p", "1", "-s", "5000000000"], "4,294,967,295", "--help"),
        (["-p", "1", "--sort", "colour"], "--sort: 'colour'", "--help"),
        (["-p", "1", "--by", "thread"], "--by: 'thread'", "--help"),
        (["--kernel", "--by", "process"], "--by can't be used with --kernel", "leave out --by"),
        (["-p", "1", "1", "0"], "COUNT", "--help"),
        (["-p", "1", "1", "-1"], "-1 is no option", "--help"),
        (["-p", "1", "1.5x"], "'1.5x'", "leaktrace -p PID [INTERVAL] [COUNT]"),
        (["-p"], "-p needs a value", "--help"),
        (["-k", "-p", "1"], "--kernel and -p", "--task PID"),
        (["--olderr", "1"], "--olderr", "did you mean --older?"),
        (["-p", "1", "--max-overhead", "-1"], "--max-overhead", "--help"),
        (["-p", "1", "--pages"], "--pages needs --kernel", "-k"),
        (["-k", "--faults"], "--faults can't be used with --kernel", "leave out --faults"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_wrong_and_what_to_do(arguments: list[str], named: str, advised: str) -> None:
    happened, hint = refused(*arguments)
    assert named in happened
    assert advised in hint


def test_a_command_that_is_a_directory() -> None:
    outcome = run_leaktrace("-c", "/tmp")
    assert outcome.exit_code == 4
    assert "/tmp: it is a directory" in outcome.stderr
    assert "hint: name a program" in outcome.stderr
