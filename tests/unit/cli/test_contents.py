"""--contents on the command line."""

from __future__ import annotations

import pytest

from leaktrace.cli.parsing import build_options
from leaktrace.cli.trace import command
from leaktrace.errors import UsageError
from leaktrace.options import Options, ProcessOptions


def options_of(*words: str) -> Options:
    with command.make_context("leaktrace", list(words)) as context:
        return build_options(context.params, context.obj or ())


def test_it_is_off_unless_it_is_asked() -> None:
    for words, wanted in ((["-p", "1"], False), (["-p", "1", "--contents", "5", "1"], True)):
        options = options_of(*words)
        assert isinstance(options, ProcessOptions)
        assert options.contents is wanted


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (["--kernel"], "--kernel"),
        (["-p", "1", "--faults"], "--faults"),
        (["-p", "1", "--combined-only"], "--combined-only"),
        (["-p", "1", "--no-malloc", "--fds"], "--no-malloc"),
        (["-p", "1", "-f", "memleak"], "-f memleak"),
        (["-p", "1", "--by", "process"], "--by process"),
        (["--all-processes"], "--contents"),
    ],
)
def test_it_is_refused_where_there_is_nothing_to_read(other: list[str], named: str) -> None:
    with pytest.raises(UsageError, match=r"--contents|--all-processes") as caught:
        options_of("--contents", *other)
    assert named in caught.value.message
    assert caught.value.hint
