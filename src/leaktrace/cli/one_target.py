"""One target at a time: refuse words of the command line that would silently be misunderstood.

`leaktrace -p $(pidof worker)` gives several process ids when there are several workers. Only the
first belongs to -p; the second would be the interval in seconds, and the third the number of
reports. If an option is given twice, only the last value would count.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from leaktrace.cli.values import Seconds, name_of
from leaktrace.errors import TargetError, UsageError
from leaktrace.notices import notify
from leaktrace.targets.process import is_running, program_of

# Probably meant as seconds, even if it is also the id of a process.
_USUAL_INTERVAL_S = 60
_LONG_INTERVAL_S = 3600
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


one_process = only_one(f"one process is traced at a time: {_ONE_FOR_EACH}")
one_command = only_one(f"one command is traced at a time: {_ONE_FOR_EACH}")


def refuse_more_words(words: Sequence[str], pid: int | None) -> None:
    """Raise UsageError if words follow the interval and the count."""
    if not words:
        return
    shown = " ".join(words)
    if pid is not None and all(word.isdecimal() for word in words):
        raise UsageError(
            f"too many numbers after -p {pid}: {shown}",
            "one process is traced at a time: leaktrace -p PID [INTERVAL] [COUNT]",
        )
    raise UsageError(
        f"unexpected words: {shown}",
        "to trace a running process: leaktrace -p PID [INTERVAL] [COUNT]; "
        "to start a command: leaktrace [OPTIONS] -- CMD ARGS",
    )


def refuse_processes_as_interval(pid: int, interval: Seconds, count: int | None) -> None:
    """Check whether the interval after this process id, or the count too, are process ids.

    Raises UsageError for another process of the same program if the interval would be long, or if
    the count is such a process, too. A number that may be either is accepted with a notice.
    """
    if not interval.is_plain:
        return
    other = int(interval)
    if _is_twin(other, pid):
        both = count is not None and count != other and _is_twin(count, pid)
        if other > _USUAL_INTERVAL_S or both:
            raise UsageError(
                f"{other} is a process of the same program as {pid}, and one process is traced "
                "at a time",
                f"{_ONE_FOR_EACH}; for an interval of {other} s, write {other}.0",
            )
        notify(f"{other} is taken as the interval in seconds; process {other} is not traced")
    elif other > _LONG_INTERVAL_S and is_running(other):
        notify(f"{other} is taken as the interval in seconds, not as a process id")


def _is_twin(other: int, pid: int) -> bool:
    """Whether this is another process of the same program (pidof(1) names none twice)."""
    try:
        return other != pid and program_of(other) == program_of(pid)
    except TargetError:
        return False
