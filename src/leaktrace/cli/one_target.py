"""One value at a time: refuse words of the command line that would silently be misunderstood.

If an option is given twice, only the last value would count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import click

from leaktrace.cli.values import ProcessId, name_of
from leaktrace.errors import UsageError

_ONE_FOR_EACH = "start one leaktrace for each"


def only_one(advice: str, default: str | None = None) -> Callable[..., Any]:
    """The callback of an option with `multiple=True` that takes a single value nevertheless.

    It raises UsageError, with this advice, for several different values.
    """

    def single(_context: click.Context, option: click.Parameter, values: Sequence[Any]) -> Any:  # noqa: ANN401
        different = list(dict.fromkeys(values))
        if len(different) > 1:
            shown = ", ".join(str(value) for value in different)
            raise UsageError(f"{name_of(option)} takes one value, but got {shown}", advice)
        return different[0] if different else default

    return single


one_process = only_one(f"give one process id: {_ONE_FOR_EACH}")


def _output_option(more_help: str = "") -> Callable[..., Any]:
    return click.option(
        "--output",
        type=click.Path(path_type=Path),
        multiple=True,
        callback=only_one("name one file; tee(1) writes to several"),
        metavar="FILE",
        help="Write reports to this file, replacing its contents; - means standard output."
        + more_help,
    )


one_file_option = _output_option()
output_option = _output_option(
    " With parts of the time in its name, as in date(1) ('leak-%H%M.json'), each new name is a new "
    "file, and programs that read it see whole reports only."
)


def pid_option(help_text: str) -> Callable[..., Any]:
    """-p of a command that looks at one process."""
    return click.option(
        "-p",
        "--pid",
        type=ProcessId(),
        multiple=True,
        callback=one_process,
        metavar="PID",
        help=help_text,
    )


def format_option(formats: Iterable[str]) -> Callable[..., Any]:
    """-f of a command that only looks."""
    return click.option(
        "-f",
        "--format",
        "format_name",
        type=click.Choice(list(formats)),
        default="text",
        show_default=True,
        help="text: for reading; json: one JSON object per line.",
    )


one_command = only_one(f"one command is traced at a time: {_ONE_FOR_EACH}")


def refuse_more_words(words: Sequence[str], pids: Sequence[tuple[int, ...]]) -> None:
    """Raise UsageError if words follow the interval and the count."""
    if not words:
        return
    shown = " ".join(words)
    if pids and all(word.isdecimal() for word in words):
        raise UsageError(
            f"too many numbers after -p {pids[-1][-1]}: {shown}",
            "leaktrace -p PID [INTERVAL] [COUNT]; several processes: -p 12,13",
        )
    raise UsageError(
        f"unexpected words: {shown}",
        "to trace a running process: leaktrace -p PID [INTERVAL] [COUNT]; "
        "to start a command: leaktrace [OPTIONS] -- CMD ARGS",
    )
