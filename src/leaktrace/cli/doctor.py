"""`leaktrace doctor`: what this machine offers, and what to do about what is missing."""

from __future__ import annotations

import io
import json
import sys
import textwrap
from collections.abc import Iterator, Sequence

import click
from rich.console import Console
from rich.text import Text

from leaktrace.cli.commands import SETTINGS, Command
from leaktrace.cli.one_target import one_process
from leaktrace.cli.values import ProcessId
from leaktrace.errors import EnvironmentUnfitError, UsageError
from leaktrace.kernel.features import kernel_features
from leaktrace.machine.features import all_features
from leaktrace.machine.machine import Feature, State

_STYLES = {State.OK: "green", State.MISSING: "red", State.LIMITED: "yellow", State.UNKNOWN: "dim"}
_WIDTH = 80
_NARROWEST_FOUND = 20
_GAP = "  "


def user_mode_works(features: Sequence[Feature]) -> bool:
    """Whether these features are enough to trace a process."""
    return not any(feature.blocks for feature in features)


def kernel_mode_works(features: Sequence[Feature]) -> bool:
    """Whether these features are enough to trace the kernel."""
    by_name = {feature.name: feature for feature in features}
    blocked = any(feature.blocks and feature.name != "uprobes" for feature in features)
    sources = (by_name.get("kmem tracepoints"), by_name.get("kprobes"))
    return not blocked and any(found is not None and found.state is State.OK for found in sources)


def to_json(features: Sequence[Feature]) -> str:
    """The findings as one JSON object, schema leaktrace/doctor/1 (fields are only ever added)."""
    return json.dumps(
        {
            "schema": "leaktrace/doctor/1",
            "user_mode": user_mode_works(features),
            "kernel_mode": kernel_mode_works(features),
            "features": [
                {
                    "name": feature.name,
                    "state": feature.state.value,
                    "required": feature.required,
                    "detail": feature.detail,
                    "advice": feature.advice,
                }
                for feature in features
            ],
        },
        indent=2,
    )


def print_table(features: Sequence[Feature], console: Console) -> None:
    """The findings as text: a line per feature, its advice below it, then the conclusion."""
    for line in table_lines(features, min(_WIDTH, console.width)):
        console.print(line, soft_wrap=True)
    console.print()
    if user_mode_works(features):
        console.print("Processes can be traced here.")
    else:
        blocking = ", ".join(feature.name for feature in features if feature.blocks)
        console.print(f"Processes can't be traced here: {blocking} missing.", markup=False)
    can = "can" if kernel_mode_works(features) else "can't"
    console.print(f"The kernel's own allocations {can} be traced (--kernel).")


def table_lines(features: Sequence[Feature], width: int) -> Iterator[Text]:
    """A header and the features, in columns: no line wider than `width` or ending in a blank."""
    names = max(map(len, ("feature", *(feature.name for feature in features))))
    states = max(map(len, ("state", *State)))
    found_width = max(_NARROWEST_FOUND, width - names - states - 2 * len(_GAP))
    yield Text(f"{'feature':{names}}{_GAP}{'state':{states}}{_GAP}found", style="bold")
    yield Text("-" * (names + states + found_width + 2 * len(_GAP)))
    for feature in features:
        found = _folded(feature.detail, found_width) or [""]
        if feature.state is not State.OK and feature.advice:
            found += _folded(f"-> {feature.advice}", found_width)
        # Text, not str: paths and release names are not markup.
        line = Text(f"{feature.name:{names}}{_GAP}")
        line.append(f"{feature.state.value:{states}}", style=_STYLES[feature.state])
        for detail in found:
            line.append(f"{_GAP}{detail}")
            line.rstrip()
            yield line
            line = Text(" " * (names + len(_GAP) + states))


def _folded(text: str, width: int) -> list[str]:
    """Broken at blanks only, so that a path can be copied; a word that is too long is split."""
    return textwrap.wrap(text, width, break_on_hyphens=False)


class DoctorCommand(Command):
    """Examines one process at a time."""

    def refuse(self, words: Sequence[str], context: click.Context) -> None:
        raise UsageError(
            f"unexpected words: {' '.join(words)}", "one process at a time: leaktrace doctor -p PID"
        )


@click.command("doctor", cls=DoctorCommand, context_settings=SETTINGS)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
@click.option(
    "-p",
    "--pid",
    type=ProcessId(),
    multiple=True,
    callback=one_process,
    metavar="PID",
    help="Examine this process instead: whether it can be traced, where its probes would be, and "
    "what a hit of each costs.",
)
@click.pass_context
def command(context: click.Context, as_json: bool, pid: int | None) -> None:
    """Show what this machine offers for tracing, and what to do about what is missing.

    Exits with 0 if processes (with -p: this process) can be traced here, with 3 if not.
    """
    if pid is not None:
        from leaktrace.process.probes.describe import (  # noqa: PLC0415
            outlook_of,
            probe_lines,
            probes_to_json,
        )

        outlook = outlook_of(pid)
        lines = probe_lines(outlook, pid)
        click.echo(probes_to_json(outlook, pid) if as_json else "\n".join(lines))
        context.exit(EnvironmentUnfitError.exit_code if outlook.is_blocked else 0)
    features = (*all_features(), *kernel_features())
    if as_json:
        click.echo(to_json(features))
    else:
        if isinstance(sys.stdout, io.TextIOWrapper):  # its encoding may lack a character
            sys.stdout.reconfigure(errors="backslashreplace")
        print_table(
            features, Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH)
        )
    context.exit(0 if user_mode_works(features) else EnvironmentUnfitError.exit_code)
