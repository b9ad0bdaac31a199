"""--exit-code and --leak-threshold on the command line."""

from __future__ import annotations

import pytest

from leaktrace.cli.parsing import build_options
from leaktrace.cli.trace import command
from leaktrace.errors import UsageError
from leaktrace.options import CommandTarget, CommonOptions, LeakExit


def options_of(*words: str) -> CommonOptions:
    with command.make_context("leaktrace", list(words)) as context:
        options = build_options(context.params, ())
    assert isinstance(options, CommonOptions)
    return options


@pytest.mark.parametrize(
    ("words", "leak_exit", "is_of_child"),
    [
        ([], None, False),
        (["--exit-code", "own"], None, False),
        (["--exit-code", "child"], None, True),
        (["--exit-code", "leak"], LeakExit(23), False),
        (["--exit-code", "leak=42"], LeakExit(42), False),
        (["--exit-code", "child,leak"], LeakExit(23), True),
        (["--exit-code", "leak=1,child"], LeakExit(1), True),
    ],
)
def test_exit_code(words: list[str], leak_exit: LeakExit | None, *, is_of_child: bool) -> None:
    options = options_of("-c", "true", *words)
    assert options.leak_exit == leak_exit
    assert options.target.pass_exit_code is is_of_child  # type: ignore[attr-defined]
    assert isinstance(options.target, CommandTarget)  # type: ignore[attr-defined]


@pytest.mark.parametrize("target", [["-p", "1"], ["--kernel"], ["-c", "true"]])
def test_leaks_count_for_every_target(target: list[str]) -> None:
    assert options_of(*target, "--exit-code", "leak").leak_exit == LeakExit()


@pytest.mark.parametrize(
    ("word", "threshold"),
    [
        ("0", 0),
        ("500", 500),
        ("10K", 10 << 10),
        ("10k", 10 << 10),
        ("1.5M", 1.5 * (1 << 20)),
        ("1G", 1 << 30),
        ("10K/s", 10 << 10),
        ("10KiB/s", 10 << 10),
        ("10 B/s", 10),
    ],
)
def test_threshold(word: str, threshold: float) -> None:
    options = options_of("-p", "1", "--exit-code", "leak", "--leak-threshold", word)
    assert options.leak_exit == LeakExit(23, threshold)


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["--exit-code", "parent"], "parent"),
        (["--exit-code", "own,leak"], "own,leak"),
        (["--exit-code", ""], "leak=STATUS"),
        (["--exit-code", "leak="], "leak="),
        (["--exit-code", "leak=0"], "1 to 255"),
        (["--exit-code", "leak=256"], "1 to 255"),
        (["--exit-code", "child"], "needs a command"),
        (["--exit-code", "child,leak"], "needs a command"),
        (["--exit-code", "leak", "--faults"], "--faults"),
        (["--leak-threshold", "10K"], "--exit-code leak"),
        (["--exit-code", "leak", "--leak-threshold", "-1"], "-1"),
        (["--exit-code", "leak", "--leak-threshold", "10KB/h"], "10KB/h"),
        (["--exit-code", "leak", "--leak-threshold", "nan"], "nan"),
    ],
)
def test_refused(words: list[str], names: str) -> None:
    with pytest.raises(UsageError) as caught:
        options_of("-p", "1", *words)
    assert names in caught.value.message
    assert caught.value.hint
