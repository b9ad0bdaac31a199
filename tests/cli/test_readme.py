"""README.md against the program: commands parse, options exist, files are there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from leaktrace.cli.commands import COMMANDS
from leaktrace.cli.trace import command as trace_command

README = (Path(__file__).parents[2] / "README.md").read_text()


def commands() -> list[str]:
    """Every leaktrace command line in a code block or between backquotes."""
    blocks = re.findall(
        r"^    (?:sudo )?(?:\S*/)?(leaktrace .*?)(?:\s+#.*)?$", README, re.MULTILINE
    )
    inline = re.findall(r"`(leaktrace [^`]*)`", README)
    # The first line of a report has two blanks behind the name.
    return [line for line in (*blocks, *inline) if not line.startswith("leaktrace  ")]


def test_there_are_commands() -> None:
    assert len(commands()) >= 6


@pytest.mark.parametrize("line", commands())
def test_command_parses(line: str) -> None:
    words = shlex.split(re.sub(r"\$\(pidof \w+\)|PID", "4242", line))[1:]
    if words[0] in COMMANDS:
        COMMANDS[words[0]].make_context("leaktrace", words[1:])
        return
    try:
        trace_command.make_context("leaktrace", words)
    except click.exceptions.Exit as exit_:  # --help
        assert exit_.exit_code == 0


def test_options_exist() -> None:
    known = {
        name
        for command in (trace_command, *COMMANDS.values())
        for parameter in command.params
        for name in (*parameter.opts, *parameter.secondary_opts)
    }
    others = (
        r"^    (?:\$ )?(?:sudo )?(?:setpriv|docker|gcc) .*$"  # programs with options of their own
    )
    ours = re.sub(others, "", README, flags=re.MULTILINE)
    mentioned = set(re.findall(r"(?<![\w-])(--[a-z][a-z-]+|-[a-zA-Z])(?![\w-])", ours))
    assert mentioned
    for option in mentioned:
        assert option in {*known, "--help", "-m"}, option


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#]+)\)", README))))
def test_links_lead_somewhere(target: str) -> None:
    assert (Path(__file__).parents[2] / target).exists()
