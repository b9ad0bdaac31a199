"""--lost: finding the blocks that nothing points to. --holders: what holds the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from leaktrace.cli.blocks import refuse_without_blocks, with_value
from leaktrace.cli.values import WholeNumber, refuse_given
from leaktrace.errors import UsageError
from leaktrace.options import Lost, ProcessOptions

_PAUSE_MS = 200
_LEAST_PAUSE_MS, _MOST_PAUSE_MS = 1, 10_000

lost_option = click.option(
    "--lost",
    type=click.Choice([one.value for one in Lost]),
    metavar="[=last]",
    help="Also read the memory of the process at every report, and say which blocks nothing points "
    "to any more: those have leaked, whatever time says. The process is not stopped, except by "
    "--stop, and as a command exits: then it waits until it has been looked at. --lost=last: only "
    "at the final report. Needs Linux 5.15.",
)

stop_option = click.option(
    "--stop",
    is_flag=True,
    help="With --lost or --holders: stop the process for a moment, and look at its memory and "
    "registers of one instant. It takes some 150 ms per GiB, and as much memory as the process "
    "has. Some system calls of the process may return EINTR (man 7 signal).",
)
max_pause_option = click.option(
    "--max-pause-ms",
    "max_pause_ms",
    type=WholeNumber(_LEAST_PAUSE_MS, _MOST_PAUSE_MS),
    default=None,
    metavar="MS",
    help="With --stop or --heap: the process goes on after at most MS milliseconds. If that is not "
    "enough, it is looked at without a stop, and older blocks are not looked at. Default: "
    f"{_PAUSE_MS}; of --heap: {ProcessOptions.heap_pause_ms}.",
)
holders_option = click.option(
    "--holders",
    is_flag=True,
    help="Also say what holds the blocks of each site: the way that leads to them from a variable, "
    "a stack or other memory of the process. Looks at the memory as --lost does, which needs not "
    "be given.",
)


def with_plain_lost(args: Sequence[str]) -> list[str]:
    """The words of the command line, with a value for --lost. Raises UsageError."""
    return with_value(args, "--lost", Lost.EVERY, lambda word: word in list(Lost))


def lost_asked(asked: dict[str, Any]) -> Lost | None:
    """When memory is looked at. Raises UsageError."""
    if asked["lost"] is None and not asked["holders"]:
        return None
    option = "--lost" if asked["lost"] is not None else "--holders"
    refuse_without_blocks(asked, option, "it looks at each block that malloc has returned")
    if asked["holders"]:
        sampled = {"-s": asked["sample_rate"] > 1, "--sample-bytes": asked["sample_bytes"]}
        refuse_given(
            sampled, "--holders", "blocks without a record are missing on the way to others"
        )
    return Lost(asked["lost"] or Lost.EVERY)


def max_pause_asked(asked: dict[str, Any]) -> int | None:
    """For how long each process may be stopped, in milliseconds; None: it may not. Raises
    UsageError."""
    most_ms: int | None = asked["max_pause_ms"]
    if asked["stop"] and asked["lost"] is None and not asked["holders"]:
        raise UsageError("--stop needs --lost or --holders", "add --lost, or leave out --stop")
    if most_ms is not None and not asked["stop"] and asked["heap"] is None:
        raise UsageError(
            "--max-pause-ms needs --stop or --heap",
            "add --stop or --heap, or leave out --max-pause-ms",
        )
    if not asked["stop"]:
        return None
    return _PAUSE_MS if most_ms is None else most_ms
