"""`leaktrace dump` on the command line. tests/cli/test_dump.py runs it."""

from __future__ import annotations

import pytest

from leaktrace.cli.dump import command
from leaktrace.errors import UsageError


@pytest.mark.parametrize(
    ("words", "happened"),
    [
        (["[heap]"], "give -p PID"),
        (["-p", "1"], "give an address or a mapping"),
        (["-p", "1", "0x12345678901234567"], "is no address"),
        (["-p", "1", "0xg"], "is no address"),
        (["-p", "1", "[heap]", "x"], "unexpected words: x"),
        (["-p", "1", "-p", "2", "[heap]"], "-p/--pid takes one value"),
        (["-p", "1", "[heap]", "--raw", "--hex"], "--raw and --hex can't be combined"),
        (["-p", "1", "[heap]", "--all", "--size", "1"], "--all can't be used with --size"),
        (["-p", "1", "0x1000", "--all"], "--all can't be used with an address"),
        (["-p", "1", "[heap]", "--size", "0"], "--size"),
        (["-p", "1", "[heap]", "--size", "x"], "--size"),
    ],
)
def test_what_makes_no_sense_is_refused(words: list[str], happened: str) -> None:
    with (
        pytest.raises(UsageError) as caught,
        command.make_context("leaktrace dump", words) as context,
    ):
        command.invoke(context)
    assert happened in caught.value.message
    assert caught.value.hint
