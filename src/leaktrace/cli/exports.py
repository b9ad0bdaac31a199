"""-f with a format of another tool, and --quantity."""

from __future__ import annotations

import sys
from typing import Any

import click
from click.core import ParameterSource

from leaktrace.analysis.quantities import Quantity
from leaktrace.cli.values import refuse_given
from leaktrace.errors import UsageError
from leaktrace.report.export import EXPORTS

OF_ONE_QUANTITY = "folded"
ALL_SITES = sys.maxsize

quantity_option = click.option(
    "--quantity",
    type=click.Choice([quantity.value for quantity in Quantity]),
    default=Quantity.IN_USE.value,
    show_default=True,
    metavar="QUANTITY",
    help=f"What -f {OF_ONE_QUANTITY} shows of each stack: "
    + "; ".join(f"{quantity}: {quantity.in_words}" for quantity in Quantity)
    + ". Only sites that still hold memory are in the file.",
)


def format_help(summaries: dict[str, str]) -> str:
    """The help of -f: its own formats, and those of other tools."""
    exports = {name: export.summary for name, export in EXPORTS.items()}
    described = [f"{name}: {summary}" for name, summary in (summaries | exports).items()]
    return (
        "; ".join(described)
        + f". Files of {', '.join(EXPORTS)} have all sites, and are written when tracing ends."
    )


def sites_asked(asked: dict[str, Any]) -> int:
    """How many sites a report has: what -T says, or all for a format of another tool. Raises
    UsageError for options that can't be combined with the format."""
    name = asked["format_name"]
    if is_given("quantity") and name != OF_ONE_QUANTITY:
        raise UsageError(
            f"--quantity can't be used with -f {name}: it is for -f {OF_ONE_QUANTITY}",
            f"leave it out, or use -f {OF_ONE_QUANTITY}",
        )
    if name not in EXPORTS:
        return int(asked["top"])
    refuse_given({"-T": is_given("top")}, f"-f {name}", "its files have all sites")
    refuse_given(
        {"-t": asked["trace"], "-a": asked["show_allocs"]},
        f"-f {name}",
        "it has no place for single calls and blocks",
    )
    more = {
        "--holders": asked["holders"],
        "--contents": asked["contents"],
        "--idle": asked["idle_s"] is not None,
    }
    refuse_given(more, f"-f {name}", "it has no place for that")
    return ALL_SITES


def is_given(name: str) -> bool:
    """Whether an option is on the command line."""
    source = click.get_current_context().get_parameter_source(name)
    return source is ParameterSource.COMMANDLINE
