"""What options have in common that look at the blocks of malloc: --lost, --holders, --contents,
--idle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from leaktrace.cli.values import refuse_given
from leaktrace.errors import UsageError


def refuse_without_blocks(asked: dict[str, Any], option: str, why: str) -> None:
    """Raise UsageError if single blocks of malloc are not traced. `why`: these are needed."""
    given = {
        "--kernel": asked["kernel"],
        "--faults": asked["faults"],
        "--combined-only": asked["combined_only"],
        "--no-malloc": asked["no_malloc"],
    }
    refuse_given(given, option, why)


def with_value(
    args: Sequence[str], option: str, value: str, is_value: Callable[[str], bool]
) -> list[str]:
    """The words of the command line, with a value for an option that has none if none is attached,
    so that an INTERVAL may follow. Raises UsageError if a word follows that can only be its
    value."""
    for word, following in pairwise(args):
        if word == option and is_value(following):
            raise UsageError(
                f"the value of {option} follows a =, not a blank", f"write {option}={following}"
            )
    return [f"{option}={value}" if word == option else word for word in args]
