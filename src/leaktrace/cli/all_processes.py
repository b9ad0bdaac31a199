"""--all-processes: its options, and which others can be combined with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from leaktrace.cli.values import name_of
from leaktrace.errors import UsageError
from leaktrace.options import RankingOptions, ReportOptions
from leaktrace.report import RANKING_FORMATS

_COMBINED = {
    "all_processes",
    "interval",
    "count",
    "top",
    "format_name",
    "output",
    "verbose",
    "ebpf",
}

all_processes_option = click.option(
    "--all-processes",
    is_flag=True,
    help="Rank all processes of the machine by growth: which one is worth tracing? Costs nothing "
    "per malloc. Can be combined with INTERVAL, COUNT, -T, -f text or json, --output and -v.",
)


def _shown(parameter: click.Parameter) -> str:
    """An option as other messages name it: -p, --kernel."""
    names = name_of(parameter).split("/")
    return names[-1] if parameter.name == "kernel" else names[0]


def ranking_options(asked: dict[str, Any], words: Sequence[str]) -> RankingOptions:
    """Check what was asked with --all-processes. Raises UsageError."""
    context = click.get_current_context()
    for parameter in context.command.params:
        name = parameter.name or ""
        is_given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if is_given and name not in _COMBINED:
            option = _shown(parameter)
            raise UsageError(
                f"{option} can't be used with --all-processes, which only ranks processes",
                f"leave out {option}, or trace the process that the ranking names: -p PID",
            )
    if words:
        raise UsageError(
            "a command can't be started with --all-processes, which only ranks processes",
            "leave out the command, or --all-processes",
        )
    if asked["format_name"] not in RANKING_FORMATS:
        raise UsageError(
            f"-f {asked['format_name']} can't be used with --all-processes: that format has sites "
            "of one process",
            f"choose one of {', '.join(RANKING_FORMATS)}",
        )
    return RankingOptions(
        report=ReportOptions(
            format=asked["format_name"],
            output=None if asked["output"] == Path("-") else asked["output"],
            interval_s=asked["interval"],
            count=asked["count"],
            top=asked["top"],
            verbose=asked["verbose"],
        )
    )
