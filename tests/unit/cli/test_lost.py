"""--lost on the command line."""

from __future__ import annotations

import click
import pytest

from leaktrace.cli.lost import with_plain_lost
from leaktrace.cli.parsing import build_options
from leaktrace.cli.trace import command
from leaktrace.errors import UsageError
from leaktrace.options import CommandTarget, Lost, Options, ProcessOptions


def options_of(*words: str) -> Options:
    with command.make_context("leaktrace", list(words)) as context:
        return build_options(context.params, context.obj or ())


@pytest.mark.parametrize(
    ("words", "lost"),
    [
        ([], None),
        (["--lost"], Lost.EVERY),
        (["--lost=every"], Lost.EVERY),
        (["--lost=last"], Lost.LAST),
    ],
)
def test_when(words: list[str], lost: Lost | None) -> None:
    options = options_of("-p", "1", *words)
    assert isinstance(options, ProcessOptions)
    assert options.lost is lost


@pytest.mark.parametrize(
    "words",
    [["--lost", "1", "7"], ["1", "--lost", "7"], ["1", "7", "--lost"], ["--lost=last", "1", "7"]],
)
def test_an_interval_may_follow(words: list[str]) -> None:
    options = options_of("-p", "1", *words)
    assert isinstance(options, ProcessOptions)
    assert options.lost is not None
    assert (options.report.interval_s, options.report.count) == (1.0, 7)


def test_words_of_the_command_are_its_own() -> None:
    options = options_of("--lost", "--", "program", "--lost")
    assert isinstance(options, ProcessOptions)
    assert isinstance(options.target, CommandTarget)
    assert options.target.argv == ("program", "--lost")
    assert with_plain_lost(["--lost", "--lost=last", "lost"]) == [
        "--lost=every",
        "--lost=last",
        "lost",
    ]


@pytest.mark.parametrize(
    ("words", "other"),
    [
        (["--kernel"], "--kernel"),
        (["-p", "1", "--faults"], "--faults"),
        (["-p", "1", "--combined-only"], "--combined-only"),
        (["-p", "1", "--no-malloc", "--fds"], "--no-malloc"),
    ],
)
@pytest.mark.parametrize("lost", ["--lost", "--lost=last"])
def test_refused_with(words: list[str], other: str, lost: str) -> None:
    with pytest.raises(UsageError, match="--lost") as caught:
        options_of(*words, lost)
    assert other in caught.value.message + caught.value.hint


def test_another_value() -> None:
    with pytest.raises(click.UsageError, match="'every', 'last'"):
        options_of("-p", "1", "--lost=first")
