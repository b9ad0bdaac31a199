"""--live: the reports of a trace in place, with keys."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import click
from click.core import ParameterSource

from leaktrace.cli.values import refuse_given
from leaktrace.options import ReportOptions

_INTERVAL_S = 2.0
_TOP = 50
_VIEW = "the live view (leaktrace top, --live)"

live_option = click.option(
    "--live",
    is_flag=True,
    help="Show the sites in place on the terminal, with their course, and react to keys (? lists "
    "them); at the end, print the final report. Without INTERVAL there is a report every 2 "
    "seconds, and without -T it has 50 sites. The same as: leaktrace top. Where there is no "
    "terminal, plain reports are printed.",
)


def with_live(asked: dict[str, Any], options: ReportOptions, *, is_command: bool) -> ReportOptions:
    """The options of reports, with what the live view changes. Raises UsageError."""
    if not asked["live"]:
        return options
    given = {
        "-f": asked["format_name"] != "text",
        "--output": asked["output"] is not None,
        "-t": asked["trace"],
        "-a": asked["show_allocs"],
    }
    refuse_given(given, _VIEW, "the view has the terminal")
    if is_command:
        refuse_given({"a command": True}, _VIEW, "it would write to the same terminal")
    context = click.get_current_context()

    def is_default(name: str) -> bool:
        return context.get_parameter_source(name) is ParameterSource.DEFAULT

    return replace(
        options,
        live=True,
        interval_s=_INTERVAL_S if is_default("interval") else options.interval_s,
        top=_TOP if is_default("top") else options.top,
    )
