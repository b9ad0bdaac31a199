"""Parameter types: numbers on the command line, with errors that say what is expected."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar

import click

from leaktrace.cli.commands import COMMANDS
from leaktrace.errors import UsageError

_Command = TypeVar("_Command", bound=Callable[..., Any])

_LONGEST_INTERVAL_S = 1_000_000  # the limit of a kernel timer
_UNITS_S = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 24 * 3600}


def name_of(parameter: click.Parameter | None) -> str:
    """A parameter as --help names it: "-p/--pid", "INTERVAL"."""
    if isinstance(parameter, click.Option):
        return "/".join(parameter.opts)
    return "" if parameter is None else (parameter.metavar or parameter.name or "").strip("[]")


def see_help(context: click.Context | None) -> str:
    """The hint of last resort."""
    return f"see {'leaktrace' if context is None else context.command_path} --help"


def together(*options: Callable[[_Command], _Command]) -> Callable[[_Command], _Command]:
    """A decorator that adds several options, in this order."""

    def add(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def refuse_given(given: Mapping[str, object], other: str, why: str = "") -> None:
    """Raise UsageError for the first option that was given and can't be used with another one.
    `given`: by option, whether it was given; `why`: the reason, if it isn't plain."""
    for option, is_given in given.items():
        if is_given:
            reason = f": {why}" if why else ""
            raise UsageError(f"{option} can't be used with {other}{reason}", f"leave out {option}")


# Generic in recent versions of click only.
class _Number(click.ParamType):  # type: ignore[type-arg]
    name = "number"
    expected = "a number"

    def refuse(self, problem: str, parameter: click.Parameter | None, hint: str) -> NoReturn:
        raise UsageError(f"{name_of(parameter)} takes {self.expected}: {problem}", hint)

    def hint_for(self, word: str, context: click.Context | None) -> str:
        """What to do about a word that is not a number."""
        return see_help(context)


class WholeNumber(_Number):
    """An int between two limits; None: no upper limit."""

    expected = "a whole number"

    def __init__(self, minimum: int, maximum: int | None = None) -> None:
        self.minimum = minimum
        self.maximum = maximum

    def convert(
        self,
        value: Any,  # noqa: ANN401 (a word, or the default)
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> int:
        """Raises UsageError."""
        try:
            number = int(value)
        except ValueError:
            self.refuse(f"'{value}' is not a number", param, self.hint_for(value, ctx))
        if number < self.minimum or (self.maximum is not None and number > self.maximum):
            limits = f"{self.minimum:,} or more"
            if self.maximum is not None:
                limits = f"{self.minimum:,} to {self.maximum:,}"
            self.refuse(f"{value} is out of range ({limits})", param, see_help(ctx))
        return number


class ProcessId(WholeNumber):
    """The id of a process."""

    expected = "one process id"

    def __init__(self) -> None:
        super().__init__(1)

    def hint_for(self, word: str, context: click.Context | None) -> str:
        return "`pgrep -n NAME` prints the id of the newest process of that name"


class ProcessIds(_Number):
    """The ids of processes, separated by commas."""

    expected = "process ids"

    def convert(
        self,
        value: Any,  # noqa: ANN401
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> tuple[int, ...]:
        """Raises UsageError."""
        if isinstance(value, tuple):
            return value
        words = str(value).replace(",", " ").split()
        if not words:
            self.refuse(f"'{value}' has none", param, self.hint_for(value, ctx))
        return tuple(ProcessId().convert(word, param, ctx) for word in words)


class Pattern(click.ParamType):  # type: ignore[type-arg]
    """A regular expression."""

    name = "regex"

    def convert(
        self,
        value: Any,  # noqa: ANN401
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> re.Pattern[str]:
        """Raises UsageError."""
        if isinstance(value, re.Pattern):
            return value
        try:
            return re.compile(value)
        except re.error as error:
            raise UsageError(
                f"{name_of(param)} takes a regular expression: '{value}' is none: {error}",
                "for a part of the name, write just that: --name nginx",
            ) from None


class PositiveNumber(_Number):
    """A float above 0."""

    expected = "a number above 0"

    def convert(
        self,
        value: Any,  # noqa: ANN401
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> float:
        """Raises UsageError."""
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if math.isnan(number):
            self.refuse(f"'{value}' is not a number", param, self.hint_for(value, ctx))
        if number <= 0:
            self.refuse(f"{value} is out of range", param, see_help(ctx))
        return number


class Seconds(float):
    """An interval. `is_plain`: it was written in digits alone, as a process id is."""

    is_plain = False

    @classmethod
    def from_word(cls, value: Any) -> Seconds:  # noqa: ANN401 (a word, or the default)
        seconds = cls(value)
        seconds.is_plain = isinstance(value, str) and value.isascii() and value.isdecimal()
        return seconds


class Duration(_Number):
    """A length of time, in seconds: "90", "90s", "5m", "2h", "1d"."""

    expected = "a length of time"

    def __init__(self, shortest_s: float, longest_s: float) -> None:
        self.shortest_s = shortest_s
        self.longest_s = longest_s

    def convert(
        self,
        value: Any,  # noqa: ANN401
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> float:
        """Raises UsageError."""
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", str(value), re.ASCII)
        if found is None:
            self.refuse(f"'{value}' is none", param, "write 90s, 5m or 2h")
        seconds = float(found[1]) * _UNITS_S[found[2]]
        if not self.shortest_s <= seconds <= self.longest_s:
            limits = f"{self.shortest_s:g}s to {self.longest_s / _UNITS_S['d']:g}d"
            self.refuse(f"{value} is out of range ({limits})", param, see_help(ctx))
        return seconds


class Interval(PositiveNumber):
    """Seconds between two reports. The first word of a command line lands here."""

    expected = "a number of seconds above 0"

    def convert(
        self,
        value: Any,  # noqa: ANN401
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Seconds:
        """Raises UsageError."""
        if super().convert(value, param, ctx) > _LONGEST_INTERVAL_S:
            raise UsageError(
                f"an interval of {value} seconds is too long: the limit is {_LONGEST_INTERVAL_S:,}",
                "INTERVAL is in seconds; several processes are given as -p 12,13: "
                "leaktrace -p PID [INTERVAL] [COUNT]",
            )
        return Seconds.from_word(value)

    def hint_for(self, word: str, context: click.Context | None) -> str:
        if meant := difflib.get_close_matches(word, COMMANDS, 1):
            return f"did you mean leaktrace {meant[0]}?"
        asked = context.params if context is not None else {}
        if asked.get("pid"):
            path = "leaktrace" if context is None else context.command_path
            return f"{path} -p PID [INTERVAL] [COUNT]"
        to_start = f"to start a command: leaktrace -- {word}"
        return to_start if "/" in word else f"to trace a process: leaktrace -p PID; {to_start}"
