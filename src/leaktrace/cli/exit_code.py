"""--exit-code and --leak-threshold: what leaktrace exits with."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import click

from leaktrace.cli.values import name_of, see_help, together
from leaktrace.errors import UsageError
from leaktrace.options import LeakExit

_FORMS = "own, child, leak, leak=STATUS, or child,leak"
_FORMS_WITHOUT_COMMAND = "own, leak, or leak=STATUS"
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class ExitCode(NamedTuple):
    """What the exit status is made of. Neither: it is leaktrace's own."""

    is_of_child: bool = False  # the command's
    of_leak: int | None = None  # the status for a leak


# Generic in recent versions of click only.
class ExitCodeType(click.ParamType):  # type: ignore[type-arg]
    """An `ExitCode`, written as one word or several with commas."""

    name = "exit code"

    def __init__(self, *, has_command: bool = True) -> None:
        """`has_command`: whether there may be a command whose status can be passed on."""
        self._forms = _FORMS if has_command else _FORMS_WITHOUT_COMMAND
        self._has_command = has_command

    def convert(
        self,
        value: Any,  # noqa: ANN401 (a word, or the default)
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> ExitCode:
        """Raises UsageError."""
        if isinstance(value, ExitCode):
            return value
        is_of_child, of_leak = False, None
        words = value.split(",")
        for word in words:
            found = re.fullmatch(r"own|child|leak(?:=(\d+))?", word, re.ASCII)
            is_alone = word != "own" or len(words) == 1
            if found is None or not is_alone or (word == "child" and not self._has_command):
                raise UsageError(
                    f"{name_of(param)} takes {self._forms}, but got '{value}'", see_help(ctx)
                )
            if word == "child":
                is_of_child = True
            elif word != "own":
                of_leak = LeakExit.status if found[1] is None else int(found[1])
        if of_leak is not None and not 1 <= of_leak <= 255:
            raise UsageError(
                f"{name_of(param)} {value}: an exit status for leaks is 1 to 255",
                f"leave the number out for {LeakExit.status}",
            )
        return ExitCode(is_of_child, of_leak)


class Rate(click.ParamType):  # type: ignore[type-arg]
    """Bytes per second: 500, 10K, 1.5M, also 10K/s."""

    name = "rate"

    def convert(
        self,
        value: Any,  # noqa: ANN401
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> float:
        """Raises UsageError."""
        if isinstance(value, float):
            return value
        found = re.fullmatch(
            r"(\d+(?:\.\d*)?|\.\d+)\s*([KMG]?)(?:i?B)?(?:/s)?", str(value), re.ASCII | re.IGNORECASE
        )
        if found is None:
            raise UsageError(
                f"{name_of(param)} takes bytes per second, such as 500, 10K or 1M: '{value}' is no "
                "rate",
                "K is 1024 bytes, M is 1024 K",
            )
        return float(found[1]) * _UNITS[found[2].upper()]


exit_code_options = together(
    click.option(
        "--exit-code",
        type=ExitCodeType(),
        default="own",
        show_default=True,
        metavar="WHICH",
        help="What to exit with. own: 0 after a successful trace. child: with the command's exit "
        f"status. leak: with {LeakExit.status} if a site was growing in the last report that had a "
        "verdict (or had lost blocks, with --lost; or, of a Go program, goroutines were leaking or "
        "its heap was growing), otherwise with 0; leak=N: with N. child,leak: with the command's "
        "exit status if it isn't 0, otherwise as with leak. Errors of leaktrace have their own "
        "status.",
    ),
    click.option(
        "--leak-threshold",
        type=Rate(),
        metavar="RATE",
        help="With --exit-code leak: only sites count that grow by more than this, in bytes per "
        "second: 500, 10K, 1M. Lost blocks always count. (Where objects are counted, as with "
        "--fds, in objects per second.) The default is 0: any site that grows.",
    ),
)


go_exit_code_options = together(
    click.option(
        "--exit-code",
        type=ExitCodeType(has_command=False),
        default="own",
        show_default=True,
        metavar="WHICH",
        help=f"What to exit with. own: 0 after the last report. leak: with {LeakExit.status} if, "
        "in the last report that had a verdict, goroutines were leaking or the heap was growing, "
        "otherwise with 0; leak=N: with N. Errors of leaktrace have their own status.",
    ),
    click.option(
        "--leak-threshold",
        type=Rate(),
        metavar="RATE",
        help="With --exit-code leak: a heap only counts that grows by more than this, in bytes per "
        "second: 500, 10K, 1M. Goroutines that leak always count.",
    ),
)


def leak_exit(asked: dict[str, Any]) -> LeakExit | None:
    """What was asked of verdicts. Raises UsageError."""
    found = go_leak_exit(asked["exit_code"], asked["leak_threshold"])
    if found is not None and asked["faults"]:
        raise UsageError(
            "--exit-code leak can't be used with --faults: page faults don't show what is freed, "
            "so there is no verdict",
            "leave out --faults",
        )
    return found


def go_leak_exit(exit_code: ExitCode, threshold: float | None) -> LeakExit | None:
    """The same for options that have no others beside them. Raises UsageError."""
    status = exit_code.of_leak
    if status is None:
        if threshold is not None:
            raise UsageError(
                "--leak-threshold needs --exit-code leak: nothing else depends on it",
                "add --exit-code leak, or leave out --leak-threshold",
            )
        return None
    return LeakExit(status, threshold or 0.0)
