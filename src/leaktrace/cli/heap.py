"""`leaktrace heap`: what is in the heap of a process, without having traced it."""

from __future__ import annotations

from pathlib import Path

import click

from leaktrace.cli.commands import SETTINGS, Command
from leaktrace.cli.one_target import format_option, output_option, pid_option
from leaktrace.cli.processes import refuse_tasks_as_interval
from leaktrace.cli.values import Interval, Seconds, WholeNumber
from leaktrace.errors import UsageError
from leaktrace.options import HeapOptions
from leaktrace.report import HEAP_FORMATS

_USAGE = "leaktrace heap -p PID [INTERVAL] [COUNT]"


class HeapCommand(Command):
    """Looks at one process at a time."""

    advice = f"one process at a time: {_USAGE}"


@click.command("heap", cls=HeapCommand, context_settings=SETTINGS)
@click.argument("interval", type=Interval(), required=False, metavar="[INTERVAL]")
@click.argument("count", type=WholeNumber(1), required=False, metavar="[COUNT]")
@pid_option("Look at this process.")
@click.option(
    "--core",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Look at a core file instead: of gcore, coredumpctl or the kernel.",
)
@click.option(
    "--max-pause-ms",
    type=WholeNumber(1),
    default=HeapOptions.max_pause_ms,
    show_default=True,
    metavar="MS",
    help="Stop the process for at most this long. If copying takes longer, it is let go, and there "
    "is no report.",
)
@click.option(
    "-T",
    "--top",
    type=WholeNumber(1),
    default=HeapOptions.top,
    show_default=True,
    metavar="N",
    help="Show at most N groups of blocks, and N arenas.",
)
@click.option(
    "--holders",
    is_flag=True,
    help="Also say what holds the blocks of the groups that are shown: the way that leads to them "
    "from a variable, a stack or other memory of the process. The process is not stopped for "
    "longer.",
)
@format_option(HEAP_FORMATS)
@output_option
def command(
    *,
    interval: Seconds | None,
    count: int | None,
    pid: int | None,
    core: Path | None,
    max_pause_ms: int,
    top: int,
    holders: bool,
    format_name: str,
    output: Path | None,
) -> int:
    """Show what is in the heap of a process, without having traced it.

    All blocks that malloc has handed out are found, grouped by what they begin with: the class of
    C++ objects, text, and so on. It says which blocks nothing points to: those have leaked. It
    shows the free memory that malloc keeps, and what RSS consists of. Without INTERVAL there is one
    report. With it, there is another every INTERVAL seconds, COUNT times (default: until
    interrupted), that says what has grown.

    The process is stopped for each look while its memory is copied, about 0.2 s per gigabyte.
    leaktrace needs that memory too, and about 90 bytes per block. A system call that waits may
    return EINTR. Nothing is traced. It knows the malloc of glibc and that of musl. Needs
    CAP_SYS_PTRACE for processes of other users.
    """
    if (pid is None) == (core is None):
        what = "there is nothing to look at" if pid is None else "-p and --core are two targets"
        raise UsageError(f"{what}: give -p PID or --core FILE", f"for example: {_USAGE}")
    if core is not None and interval is not None:
        raise UsageError("a core file does not change: it has no INTERVAL", "leave INTERVAL out")
    if pid is not None and interval is not None:
        refuse_tasks_as_interval(pid, interval, count, "leaktrace heap")
    from leaktrace.session.heap import run_heap  # noqa: PLC0415

    return run_heap(
        HeapOptions(
            pid=pid,
            core=core,
            interval_s=interval,
            count=count,
            max_pause_ms=max_pause_ms,
            top=top,
            holders=holders,
            format=format_name,
            output=None if output == Path("-") else output,
        )
    )
