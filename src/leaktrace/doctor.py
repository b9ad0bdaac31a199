"""`leaktrace doctor`: what this machine offers, and what to do about what it doesn't."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from leaktrace.errors import EnvironmentUnfitError
from leaktrace.features import Feature, State, all_features
from leaktrace.kernel_features import kernel_features

_STYLES = {State.OK: "green", State.MISSING: "red", State.LIMITED: "yellow", State.UNKNOWN: "dim"}
_WIDTH = 80


def user_mode_works(features: Sequence[Feature]) -> bool:
    """Whether a process can be traced where these features were found."""
    return not any(feature.blocks for feature in features)


def kernel_mode_works(features: Sequence[Feature]) -> bool:
    """Whether the kernel can be traced where these features were found."""
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
    """The findings for a reader: a line a feature, its advice below it, then the verdict."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, width=min(_WIDTH, console.width))
    table.add_column("feature", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("found", ratio=1, overflow="fold")
    for feature in features:
        found = feature.detail
        if feature.state is not State.OK and feature.advice:
            found += f"\n→ {feature.advice}"
        # Text, not str: paths and release names are no markup.
        table.add_row(
            feature.name, Text(feature.state.value, style=_STYLES[feature.state]), Text(found)
        )
    console.print(table)
    if user_mode_works(features):
        console.print("Processes can be traced here.")
    else:
        blocking = ", ".join(feature.name for feature in features if feature.blocks)
        console.print(f"Processes can't be traced here: {blocking} missing.", markup=False)
    can = "can" if kernel_mode_works(features) else "can't"
    console.print(f"The kernel's own allocations {can} be traced (--kernel).")


@click.command(
    "doctor",
    short_help="Say what this machine offers for tracing.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
@click.pass_context
def doctor_command(context: click.Context, as_json: bool) -> None:
    """Say what this machine offers for tracing, and what to do about what is missing.

    Exits with 0 when processes can be traced here, with 3 when not.
    """
    features = (*all_features(), *kernel_features())
    if as_json:
        click.echo(to_json(features))
    else:
        print_table(
            features, Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH)
        )
    context.exit(0 if user_mode_works(features) else EnvironmentUnfitError.exit_code)
