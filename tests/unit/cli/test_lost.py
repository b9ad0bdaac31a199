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
    assert (options.max_pause_ms is not None) == ("--stop" in words)


@pytest.mark.parametrize(
    "words",
    [["--lost", "1", "7"], ["1", "--lost", "7"], ["1", "7", "--lost"], ["--lost=last", "1", "7"]],
)
def test_an_interval_may_follow(words: list[str]) -> None:
    options = options_of("-p", "1", *words)
    assert isinstance(options, ProcessOptions)
    assert options.lost is not None
    assert (options.report.interval_s, options.report.count) == (1.0, 7)


@pytest.mark.parametrize("word", ["last", "every"])
def test_a_value_after_a_blank(word: str) -> None:
    with pytest.raises(UsageError, match="--lost follows a =") as caught:
        options_of("-p", "1", "--lost", word, "5")
    assert f"--lost={word}" in caught.value.hint


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


def test_a_stop() -> None:
    def most_ms(*words: str) -> int | None:
        options = options_of("-p", "1", *words)
        assert isinstance(options, ProcessOptions)
        return options.max_pause_ms

    assert most_ms() is most_ms("--lost") is None
    assert most_ms("--lost", "--stop") == 200
    assert most_ms("--lost=last", "--stop", "--max-pause-ms", "10000") == 10_000


@pytest.mark.parametrize(
    ("words", "missing"),
    [
        (["--stop"], "--lost"),
        (["--stop", "--max-pause-ms", "5"], "--lost"),
        (["--lost", "--max-pause-ms", "5"], "--stop"),
        (["--max-pause-ms", "5"], "--stop"),
    ],
)
@pytest.mark.parametrize("target", [["-p", "1"], ["--kernel"]])
def test_a_stop_needs(target: list[str], words: list[str], missing: str) -> None:
    if target == ["--kernel"] and "--lost" in words:
        words = [word for word in words if word != "--lost"]
    with pytest.raises(UsageError, match=f"needs {missing}") as caught:
        options_of(*target, *words)
    assert missing in caught.value.hint


@pytest.mark.parametrize("value", ["0", "-1", "10001", "1.5", "x", ""])
def test_no_time_for_a_stop(value: str) -> None:
    with pytest.raises((click.UsageError, UsageError)):
        options_of("-p", "1", "--lost", "--stop", "--max-pause-ms", value)


def test_another_value() -> None:
    with pytest.raises(click.UsageError, match="'every', 'last'"):
        options_of("-p", "1", "--lost=first")


@pytest.mark.parametrize(
    ("words", "lost"),
    [
        (["--holders"], Lost.EVERY),
        (["--holders", "--lost"], Lost.EVERY),
        (["--holders", "--lost=last"], Lost.LAST),
        (["--holders", "--stop"], Lost.EVERY),
        (["--holders", "--lost=last", "--stop"], Lost.LAST),
    ],
)
def test_holders_are_found_by_a_look(words: list[str], lost: Lost) -> None:
    options = options_of("-p", "1", *words)
    assert isinstance(options, ProcessOptions)
    assert options.holders
    assert options.lost is lost
    assert (options.max_pause_ms is not None) == ("--stop" in words)


@pytest.mark.parametrize(
    ("words", "other"),
    [
        (["--kernel"], "--kernel"),
        (["-p", "1", "--faults"], "--faults"),
        (["-p", "1", "--combined-only"], "--combined-only"),
        (["-p", "1", "-s", "10"], "-s"),
        (["-p", "1", "--sample-bytes", "4096"], "--sample-bytes"),
    ],
)
def test_holders_are_refused_with(words: list[str], other: str) -> None:
    with pytest.raises(UsageError, match="--holders") as caught:
        options_of(*words, "--holders")
    assert other in caught.value.message
    assert other in caught.value.hint
