"""Formats of other tools on the command line: what is understood, and what is refused."""

from __future__ import annotations

import sys

import pytest

from leaktrace.cli.parsing import build_options
from leaktrace.cli.trace import command
from leaktrace.errors import UsageError
from leaktrace.options import Options, ProcessOptions
from leaktrace.report.export import EXPORTS


def options_of(*words: str) -> Options:
    with command.make_context("leaktrace", list(words)) as context:
        return build_options(context.params, ())


@pytest.mark.parametrize("name", EXPORTS)
def test_reports_have_all_sites(name: str) -> None:
    options = options_of("-p", "1", "10", "6", "--format", name, "--output", "file")
    assert isinstance(options, ProcessOptions)
    assert options.report.format == name
    assert options.report.top == sys.maxsize
    plain = options_of("-p", "1")
    assert isinstance(plain, ProcessOptions)
    assert plain.report.top == 10


def test_quantity() -> None:
    options = options_of("-p", "1", "-f", "folded", "--quantity", "freed-blocks")
    assert isinstance(options, ProcessOptions)
    assert options.report.quantity == "freed-blocks"


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["-f", "pprof", "-T", "10"], "-T"),
        (["-f", "folded", "-t"], "-t"),
        (["-f", "massif", "-a"], "-a"),
        (["-f", "speedscope", "--contents"], "--contents"),
        (["-f", "pprof", "--lost", "--holders"], "--holders"),
        (["-f", "massif", "--idle"], "--idle"),
        (["-f", "pprof", "--quantity", "freed"], "--quantity"),
        (["--quantity", "in-use"], "--quantity"),
    ],
)
def test_contradictions(words: list[str], names: str) -> None:
    with pytest.raises(UsageError) as caught:
        options_of("-p", "1", *words)
    assert caught.value.message.startswith(names)
    assert caught.value.hint


@pytest.mark.parametrize("name", EXPORTS)
def test_all_processes_have_no_sites(name: str) -> None:
    with pytest.raises(UsageError, match="--all-processes"):
        options_of("--all-processes", "-f", name)
