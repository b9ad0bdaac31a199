"""--fds on the command line: what is understood, and what is refused with the reason."""

from __future__ import annotations

import pytest

from leaktrace.cli.parsing import build_options
from leaktrace.cli.trace import command
from leaktrace.errors import UsageError
from leaktrace.options import MOST_PAIRS, Options, ProcessOptions


def options_of(*words: str) -> Options:
    with command.make_context("leaktrace", list(words)) as context:
        return build_options(context.params, ())


def pairs(count: int) -> list[str]:
    return [word for n in range(count) for word in ("--pair", f"get{n}:put")]


def test_options() -> None:
    options = options_of("-p", "1", "--fds")
    assert isinstance(options, ProcessOptions)
    assert options.fds
    assert options.malloc
    assert options.descriptor_space == 1
    plain = options_of("-p", "1")
    assert isinstance(plain, ProcessOptions)
    assert plain.descriptor_space == 0


def test_descriptors_come_after_pairs() -> None:
    options = options_of("-p", "1", "--fds", "--no-malloc", *pairs(MOST_PAIRS - 1))
    assert isinstance(options, ProcessOptions)
    assert not options.malloc
    assert options.descriptor_space == MOST_PAIRS


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["-p", "1", "--faults"], "--faults"),
        (["--kernel"], "--kernel"),
        (["--all-processes"], "--all-processes"),
        (["-p", "1", "--combined-only"], "--combined-only"),
        (["-p", "1", "-f", "memleak"], "memleak"),
        (["-p", "1", "--no-malloc", "-z", "10"], "-z"),
        (["-p", "1", "--no-malloc", "-s", "10"], "-s"),
        (["-p", "1", "--no-malloc", "--by", "process"], "--by process"),
        (["-p", "1", *pairs(MOST_PAIRS)], "--pair"),
    ],
)
def test_contradictions(words: list[str], names: str) -> None:
    with pytest.raises(UsageError) as caught:
        options_of(*words, "--fds")
    assert names in caught.value.message
    assert "--fds" in caught.value.message or "file descriptors" in caught.value.message
    assert caught.value.hint
