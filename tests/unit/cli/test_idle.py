"""--idle on the command line."""

from __future__ import annotations

import pytest

from leaktrace.cli.idle import with_plain_idle
from leaktrace.cli.parsing import build_options
from leaktrace.cli.trace import command
from leaktrace.errors import UsageError
from leaktrace.options import CommandTarget, Lost, Options, ProcessOptions


def options_of(*words: str) -> Options:
    with command.make_context("leaktrace", list(words)) as context:
        return build_options(context.params, context.obj or ())


@pytest.mark.parametrize(
    ("words", "idle_s"),
    [
        ([], None),
        (["--idle"], 300),
        (["--idle=10"], 10),
        (["--idle=90s"], 90),
        (["--idle=1.5m"], 90),
        (["--idle=2h"], 7200),
        (["--idle=7d"], 7 * 24 * 3600),
    ],
)
def test_duration(words: list[str], idle_s: float | None) -> None:
    options = options_of("-p", "1", *words)
    assert isinstance(options, ProcessOptions)
    assert options.idle_s == idle_s


@pytest.mark.parametrize("word", ["9", "9.9s", "8d", "0", "-10", "5 m", "m", "1e3", "", "٣٠"])
def test_no_duration(word: str) -> None:
    with pytest.raises(UsageError, match="--idle") as caught:
        options_of("-p", "1", f"--idle={word}")
    assert caught.value.hint


def test_an_interval_may_follow() -> None:
    options = options_of("-p", "1", "--idle", "1", "7")
    assert isinstance(options, ProcessOptions)
    assert (options.report.interval_s, options.report.count) == (1.0, 7)


@pytest.mark.parametrize("word", ["10s", "1.5m", "2h"])
def test_a_value_after_a_blank(word: str) -> None:
    with pytest.raises(UsageError, match="--idle follows a =") as caught:
        options_of("-p", "1", "--idle", word)
    assert f"--idle={word}" in caught.value.hint


def test_words_of_the_command_are_its_own() -> None:
    options = options_of("--idle", "--", "program", "--idle")
    assert isinstance(options, ProcessOptions)
    assert isinstance(options.target, CommandTarget)
    assert options.target.argv == ("program", "--idle")
    assert with_plain_idle(["--idle", "--idle=1m", "idle"]) == ["--idle=5m", "--idle=1m", "idle"]


@pytest.mark.parametrize(
    ("words", "other"),
    [
        (["--kernel"], "--kernel"),
        (["-p", "1", "--faults"], "--faults"),
        (["-p", "1", "--combined-only"], "--combined-only"),
        (["-p", "1", "--no-malloc", "--fds"], "--no-malloc"),
        (["-p", "1", "--lost"], "--lost"),
    ],
)
def test_refused_with(words: list[str], other: str) -> None:
    with pytest.raises(UsageError, match="--idle") as caught:
        options_of(*words, "--idle")
    assert other in caught.value.message + caught.value.hint


def test_memory_is_read_at_the_end_only() -> None:
    options = options_of("-p", "1", "--idle", "--lost=last")
    assert isinstance(options, ProcessOptions)
    assert options.lost is Lost.LAST
