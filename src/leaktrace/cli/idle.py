"""--idle: which memory the process does not use."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import click

from leaktrace.cli.blocks import refuse_without_blocks, with_value
from leaktrace.cli.values import Duration
from leaktrace.errors import UsageError
from leaktrace.options import Lost

_DEFAULT = "5m"
# A page that a tight loop uses may stay in the processor's TLB, where its use is not seen, for
# several seconds.
_SHORTEST_S, _LONGEST_S = 10, 7 * 24 * 3600

idle_option = click.option(
    "--idle",
    "idle_s",
    type=Duration(_SHORTEST_S, _LONGEST_S),
    metavar="[=DURATION]",
    help="Also watch some pages of the largest sites, and say how much of their memory the process "
    "has not touched for DURATION: 90s, 5m (the default), 2h. This tells a leak that something "
    "still points to from a cache that is used. The process is not slowed down. Needs Linux 6.2 "
    "with DAMON.",
)


def with_plain_idle(args: Sequence[str]) -> list[str]:
    """The words of the command line, with a value for --idle. Raises UsageError."""

    def is_value(word: str) -> bool:
        return re.fullmatch(r"[\d.]+[smhd]", word) is not None

    return with_value(args, "--idle", _DEFAULT, is_value)


def idle_asked(asked: dict[str, Any]) -> float | None:
    """What was asked, in seconds. Raises UsageError."""
    if asked["idle_s"] is None:
        return None
    refuse_without_blocks(
        asked, "--idle", "it watches the pages of blocks that malloc has returned"
    )
    if asked["lost"] == Lost.EVERY:
        raise UsageError(
            "--idle can't be used with --lost at every report: reading the memory counts as use",
            "use --lost=last: then memory is read once, after the last look at what is used",
        )
    return float(asked["idle_s"])
