"""--lost: finding the blocks that nothing points to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from leaktrace.cli.values import refuse_given
from leaktrace.options import Lost

lost_option = click.option(
    "--lost",
    type=click.Choice([one.value for one in Lost]),
    metavar="[=last]",
    help="Also read the memory of the process at every report, and say which blocks nothing points "
    "to any more: those have leaked, whatever time says. The process is not stopped, except as a "
    "command exits: then it waits until it has been looked at. --lost=last: only at the final "
    "report. Needs Linux 5.15.",
)


def with_plain_lost(args: Sequence[str]) -> list[str]:
    """The words of the command line, with a value for --lost: it has none if none is attached, so
    that an INTERVAL may follow."""
    return [f"--lost={Lost.EVERY}" if word == "--lost" else word for word in args]


def lost_asked(asked: dict[str, Any]) -> Lost | None:
    """What was asked. Raises UsageError."""
    if asked["lost"] is None:
        return None
    given = {
        "--kernel": asked["kernel"],
        "--faults": asked["faults"],
        "--combined-only": asked["combined_only"],
        "--no-malloc": asked["no_malloc"],
    }
    refuse_given(given, "--lost", "it looks at each block that malloc has returned")
    return Lost(asked["lost"])
