"""`leaktrace maps`: what a process holds by kind of memory, and what of it grows."""

from __future__ import annotations

from pathlib import Path

import click

from leaktrace.cli.commands import SETTINGS, Command
from leaktrace.cli.one_target import format_option, output_option, pid_option
from leaktrace.cli.processes import refuse_tasks_as_interval
from leaktrace.cli.values import Interval, Seconds, WholeNumber
from leaktrace.errors import UsageError
from leaktrace.options import MapsOptions
from leaktrace.report import MAPS_FORMATS

_USAGE = "leaktrace maps -p PID [INTERVAL] [COUNT]"


class MapsCommand(Command):
    """Looks at one process at a time."""

    advice = f"one process at a time: {_USAGE}"


@click.command("maps", cls=MapsCommand, context_settings=SETTINGS)
@click.argument("interval", type=Interval(), required=False, metavar="[INTERVAL]")
@click.argument("count", type=WholeNumber(1), required=False, metavar="[COUNT]")
@pid_option("Look at this process.")
@click.option(
    "-T",
    "--top",
    type=WholeNumber(1),
    default=MapsOptions.top,
    show_default=True,
    metavar="N",
    help="Show at most N single mappings.",
)
@format_option(MAPS_FORMATS)
@output_option
def command(
    *,
    interval: Seconds | None,
    count: int | None,
    pid: int | None,
    top: int,
    format_name: str,
    output: Path | None,
) -> int:
    """Show what a process holds by kind of memory, and what of it grows.

    Kinds are the heap, arenas of the allocator, stacks, files, shared memory and so on, from
    /proc/PID/smaps. Without INTERVAL there is one report. With it, the first look is what growth
    counts from, and there is a report every INTERVAL seconds, COUNT times (default: until
    interrupted), with the single mappings that have grown most.

    Nothing is traced, and the process is not stopped. For each look the kernel walks its page
    tables: a call of mmap or a page fault of the process may wait meanwhile (about 15 ms per
    gigabyte). Processes of other users need CAP_SYS_PTRACE.
    """
    if pid is None:
        raise UsageError("there is nothing to look at: give -p PID", f"for example: {_USAGE}")
    if interval is not None:
        refuse_tasks_as_interval(pid, interval, count, "leaktrace maps")
    from leaktrace.session.maps import run_maps  # noqa: PLC0415

    return run_maps(
        MapsOptions(
            pid=pid,
            interval_s=interval,
            count=count,
            top=top,
            format=format_name,
            output=None if output == Path("-") else output,
        )
    )
