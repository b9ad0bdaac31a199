"""--heap on the command line."""

from __future__ import annotations

import click
import pytest

from leaktrace.cli.parsing import build_options
from leaktrace.cli.trace import command
from leaktrace.errors import UsageError
from leaktrace.options import HeapLooks, Options, ProcessOptions


def options_of(*words: str) -> Options:
    with command.make_context("leaktrace", list(words)) as context:
        return build_options(context.params, context.obj or ())


@pytest.mark.parametrize(
    ("words", "when", "pause_ms", "lost_pause_ms"),
    [
        ([], None, 1000, None),
        (["--heap"], HeapLooks.ENDS, 1000, None),
        (["--heap=every"], HeapLooks.EVERY, 1000, None),
        (["--heap=last", "--max-pause-ms", "20"], HeapLooks.LAST, 20, None),
        (["--heap", "--lost", "--stop"], HeapLooks.ENDS, 1000, 200),
        (["--heap", "--lost", "--stop", "--max-pause-ms", "300"], HeapLooks.ENDS, 300, 300),
    ],
)
def test_when(
    words: list[str], when: HeapLooks | None, pause_ms: int, lost_pause_ms: int | None
) -> None:
    options = options_of("-p", "1", *words, "5", "3")
    assert isinstance(options, ProcessOptions)
    assert (options.heap, options.heap_pause_ms) == (when, pause_ms)
    assert options.max_pause_ms == lost_pause_ms
    assert (options.report.interval_s, options.report.count) == (5.0, 3)


@pytest.mark.parametrize(
    ("words", "other"),
    [
        (["--kernel"], "--kernel"),
        (["-p", "1", "--faults"], "--faults"),
        (["-p", "1", "--combined-only"], "--combined-only"),
        (["-p", "1", "-s", "10"], "-s"),
        (["-p", "1", "--sample-bytes", "100"], "--sample-bytes"),
        (["-p", "1", "-z", "0"], "-z"),
        (["-p", "1", "-O", "c"], "-O"),
        (["-p", "1", "-f", "memleak"], "memleak"),
    ],
)
def test_is_refused_with(words: list[str], other: str) -> None:
    with pytest.raises(UsageError, match="--heap") as caught:
        options_of(*words, "--heap")
    assert other in caught.value.message
    assert other in caught.value.hint


def test_nothing_is_older_than_a_command() -> None:
    with pytest.raises(UsageError, match="nothing is older") as caught:
        options_of("--heap", "--", "program")
    assert "--heap" in caught.value.hint


def test_the_value_does_not_follow_a_blank() -> None:
    with pytest.raises(UsageError, match="--heap follows a ="):
        options_of("-p", "1", "--heap", "last")


def test_a_limit_of_no_stop() -> None:
    with pytest.raises(UsageError, match="--max-pause-ms needs --stop or --heap"):
        options_of("-p", "1", "--max-pause-ms", "20")


def test_it_is_an_option_of_tracing() -> None:
    with pytest.raises(click.UsageError):
        command.make_context("leaktrace", ["-p", "1", "--heap=first"])
