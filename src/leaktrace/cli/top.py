"""`leaktrace top`: a trace in the live view."""

from __future__ import annotations

from collections.abc import Sequence

import click

from leaktrace.cli.commands import SETTINGS, Command


@click.command(
    "top",
    cls=Command,
    context_settings={**SETTINGS, "ignore_unknown_options": True},
    options_metavar="-p PID [INTERVAL] [COUNT] [OPTIONS]",
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="")
def command(words: Sequence[str]) -> int:
    """Show in place which call sites of a process hold memory, and how that goes on.

    The same as leaktrace --live, and it takes the options of leaktrace: -p, --name, --kernel, -T,
    --sort, --lost and so on (leaktrace --help). Without INTERVAL there is a report every 2 seconds.

    Keys: up and down choose a site, Enter shows its stack, s sorts, / filters, p pauses, m marks,
    w saves the report, ? shows all keys, q ends tracing and prints the final report.
    """
    from leaktrace.cli.trace import command as trace  # noqa: PLC0415

    with trace.make_context("leaktrace", ["--live", *words]) as context:
        status: int = trace.invoke(context)
        return status
