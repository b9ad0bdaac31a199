"""The default command: trace a process, a command or the kernel, and report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from leaktrace import __version__
from leaktrace.bpf.build import compiler_started_early
from leaktrace.bpf.sources import source_text
from leaktrace.cli.all_processes import all_processes_option
from leaktrace.cli.commands import COMMANDS, SETTINGS, Command
from leaktrace.cli.contents import contents_option
from leaktrace.cli.exit_code import exit_code_options
from leaktrace.cli.exports import format_help, quantity_option
from leaktrace.cli.idle import idle_option, with_plain_idle
from leaktrace.cli.kernel import kernel_options
from leaktrace.cli.limits import event_buffer_options, limit_options
from leaktrace.cli.live import live_option
from leaktrace.cli.lost import (
    holders_option,
    lost_option,
    max_pause_option,
    stop_option,
    with_plain_lost,
)
from leaktrace.cli.older import heap_option, with_plain_heap
from leaktrace.cli.one_target import one_command, only_one, output_option, refuse_more_words
from leaktrace.cli.pairs import FunctionPair
from leaktrace.cli.parsing import build_options
from leaktrace.cli.processes import process_options, with_all_processes
from leaktrace.cli.record import record_options
from leaktrace.cli.stacks import stack_options
from leaktrace.cli.values import Interval, WholeNumber
from leaktrace.notices import notify
from leaktrace.options import (
    By,
    CommandTarget,
    KernelOptions,
    KernelTarget,
    ProcessOptions,
    RankingOptions,
    ReportOptions,
    SortKey,
)
from leaktrace.own.shortages import load_numpy, require_room
from leaktrace.report import EXPORTS, FORMATS

_EXAMPLES = """\b
Examples:
  leaktrace -p 4242             what process 4242 leaks, every 5 seconds
  leaktrace -p 4242 60 10       ten reports, one per minute
  leaktrace -p $(pidof nginx)   several processes, in one report
  leaktrace -p 4242 --follow    a process and the children that it starts
  leaktrace -c './server -v'    start a command and trace all of its run
  leaktrace 1 -- ./server -v    the same, with a report every second
  leaktrace -p 4242 -t          every call as it happens
  leaktrace -p 4242 -f json     one JSON object per line, for programs
  leaktrace top -p 4242         the same in place, with keys
  leaktrace --all-processes     which process of this machine grows
  leaktrace --kernel            what the kernel itself allocates and keeps
  leaktrace maps -p 4242        what it holds, by kind of memory
  leaktrace dump -p 4242 WHAT   the bytes of a mapping, or at an address
  leaktrace doctor              what this machine offers, and what is missing

\b
Exit status: 0 success; 1 error; 2 wrong usage; 3 a privilege, kernel feature
or resource is missing; 4 the process has ended or can't be traced;
23 a leak, if --exit-code leak is given; 130 interrupted before tracing
began, or twice.
"""

# What the BPF program and its maps can take.
_MOST_ENTRIES = 1 << 31
_MOST_BYTES = (1 << 64) - 1
_MOST_SAMPLED = (1 << 32) - 1
_MOST_SAMPLED_BYTES = 1 << 40


class TraceCommand(Command):
    """Takes everything after `--` as the command to run, whatever its words look like."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            at = args.index("--")
            ctx.obj = tuple(args[at + 1 :])
            args = args[:at]
        words = with_plain_heap(with_plain_idle(with_plain_lost(args)))
        return super().parse_args(ctx, with_all_processes(words))

    def refuse(self, words: Sequence[str], context: click.Context) -> None:
        refuse_more_words(words, context.params.get("pid") or ())

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(COMMANDS.summaries())
        super().format_epilog(ctx, formatter)


@click.command(
    "leaktrace",
    cls=TraceCommand,
    context_settings=SETTINGS,
    options_metavar="[OPTIONS]",
    epilog=_EXAMPLES,
)
@click.argument("interval", type=Interval(), default=5.0, metavar="[INTERVAL]")
@click.argument("count", type=WholeNumber(1), required=False, metavar="[COUNT]")
@process_options
@click.option(
    "-c",
    "--command",
    multiple=True,
    callback=one_command,
    metavar="CMD",
    help="Start this command and trace it from its first instruction. CMD is split into words like "
    "a shell command, but no shell runs it. With words that are already separate, write: leaktrace "
    "[OPTIONS] -- CMD ARGS. leaktrace stops the command for a moment where it starts, before each "
    "program that it executes itself, and as it exits. The first Ctrl-C is left to the command. If "
    "leaktrace ends first, it ends the command: SIGTERM, and after 5 seconds SIGKILL.",
)
@click.option(
    "--faults",
    is_flag=True,
    help="Trace page faults instead of allocation calls: shows which call paths make resident "
    "memory grow, at almost no cost. Shows new pages, not what was freed. The code that touches a "
    "page first is not always the code that keeps it.",
)
@all_processes_option
@kernel_options
@click.option(
    "-t",
    "--trace",
    is_flag=True,
    help="Print every call as it happens, one per line: seconds (CLOCK_MONOTONIC, as in dmesg), "
    "thread, function, bytes, address, callers. For a release, bytes has a minus sign and the "
    "callers are those that allocated the block. Only the first few callers are shown.",
)
@click.option(
    "-a",
    "--show-allocs",
    is_flag=True,
    help="List every outstanding allocation with its address.",
)
@click.option(
    "-o",
    "--older",
    "older_ms",
    type=WholeNumber(0),
    default=500,
    show_default=True,
    metavar="MS",
    help="Leave allocations younger than MS milliseconds out of the sites. The final report of a "
    "process that has ended shows all allocations, unless this option is given.",
)
@click.option(
    "--combined-only",
    is_flag=True,
    help="Report from the sites' counters only: cheaper with many allocations, but without ages.",
)
@click.option(
    "--wa-missing-free",
    is_flag=True,
    help="Accepted for compatibility with memleak, and always on: when an address is allocated "
    "again without a free, the new record replaces the old one, and this is counted.",
)
@click.option(
    "-s",
    "--sample-rate",
    type=WholeNumber(1, _MOST_SAMPLED),
    default=1,
    show_default=True,
    metavar="N",
    help="Record one allocation in N, chosen at random. Figures are scaled up and marked as "
    "estimates.",
)
@click.option(
    "--sample-bytes",
    type=WholeNumber(1, _MOST_SAMPLED_BYTES),
    metavar="N",
    help="Record about one allocation per N bytes, large ones more likely than small ones. This "
    "estimates bytes better than -s at the same cost. Figures are shown with their standard error.",
)
@click.option(
    "-T",
    "--top",
    type=WholeNumber(1),
    default=10,
    show_default=True,
    metavar="N",
    help="Show at most N sites.",
)
@click.option(
    "-z",
    "--min-size",
    type=WholeNumber(0, _MOST_BYTES),
    metavar="BYTES",
    help="Record only allocations of at least this size.",
)
@click.option(
    "-Z",
    "--max-size",
    type=WholeNumber(0, _MOST_BYTES),
    metavar="BYTES",
    help="Record only allocations of at most this size.",
)
@click.option(
    "-O",
    "--obj",
    multiple=True,
    callback=only_one("without -O, leaktrace hooks every object that has an allocator"),
    metavar="OBJ",
    help="Hook the allocator of this object only: a path, a file name, or a library's short name "
    "(c, jemalloc). The default is every object that has an allocator.",
)
@click.option(
    "--symbols-prefix",
    multiple=True,
    callback=only_one("start one leaktrace for each prefix", default=""),
    metavar="PREFIX",
    help="Hook PREFIXmalloc, PREFIXfree and so on, instead of malloc and free.",
)
@click.option(
    "--pair",
    type=FunctionPair(),
    multiple=True,
    metavar="[OBJ:]ALLOC:FREE[:SIZE[:HANDLE]]",
    help="Also trace what the function ALLOC returns until it is passed to FREE, in a section of "
    "its own: SSL_new:SSL_free, fopen:fclose. SIZE is the number of ALLOC's argument that is a "
    "size (0, the default: none; objects are counted). HANDLE is the number of FREE's argument "
    "that ALLOC returned (default: 1). OBJ, as for -O, is the object that defines both; needed "
    "only if it is loaded later, or if others define them, too. Can be repeated.",
)
@click.option(
    "--fds",
    is_flag=True,
    help="Also trace file descriptors, in a section of their own: which code opens files, sockets, "
    "pipes and so on that are not closed, what they are, and how many the process may open.",
)
@click.option(
    "--no-malloc",
    is_flag=True,
    help="With --pair or --fds: trace only these, and not malloc.",
)
@lost_option
@stop_option
@max_pause_option
@heap_option
@holders_option
@contents_option
@idle_option
@click.option(
    "--sort",
    type=click.Choice([key.value for key in SortKey]),
    help="Sort the sites by growth (those that keep growing, the fastest first, then the others by "
    "size), by size, by count, or by the age of the oldest allocation. Default: growth; with "
    "-f memleak or --faults: size.",
)
@click.option(
    "--by",
    type=click.Choice([by.value for by in By]),
    default=By.SITE.value,
    show_default=True,
    help="If several processes are traced: show the sites of all together, with the part of each "
    "process, or each process with its own sites.",
)
@click.option(
    "-f",
    "--format",
    "format_name",
    type=click.Choice([*FORMATS, *EXPORTS]),
    default="text",
    show_default=True,
    metavar="FORMAT",
    help=format_help({name: reporter.summary for name, reporter in FORMATS.items()}),
)
@quantity_option
@output_option
@record_options
@click.option(
    "--keep",
    type=WholeNumber(1),
    metavar="N",
    help="With parts of the time in the name that --output gives: keep the newest N files that "
    "this run has made, and remove its older ones.",
)
@limit_options
@click.option(
    "--probe-returns",
    is_flag=True,
    help="Follow calls with return probes, as other tools do. Use this for comparison only: return "
    "probes replace return addresses, and a process that throws an exception through an "
    "allocation function, or switches coroutines in one, crashes.",
)
@stack_options
@event_buffer_options
@click.option(
    "--suppressions",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FILE",
    help="Leave known sites out of the reports and of the verdict: those whose stack a pattern of "
    "this file matches, by function, source file or module. The format is LeakSanitizer's: a line "
    "leak:PATTERN each, with the wildcard *, ^ for the start and $ for the end. The totals still "
    "include them. With -v, patterns that matched nothing are named at the end. Can be repeated.",
)
@live_option
@exit_code_options
@click.option("--ebpf", is_flag=True, help="Print the source of the BPF program and exit.")
@click.option(
    "-v",
    "--verbose",
    is_flag=True,
    help="Print on stderr what is hooked, and show in each report what tracing costs.",
)
@click.version_option(__version__, "-V", "--version", message="leaktrace %(version)s")
@click.pass_context
def command(context: click.Context, /, **asked: Any) -> int:  # noqa: ANN401
    """Find memory leaks of a running process, from outside.

    Shows which call sites hold memory that was allocated since leaktrace attached and has not been
    freed. Prints a report every INTERVAL seconds (default: 5), COUNT times (default: until
    interrupted). The process is not restarted, changed or stopped.
    """
    if asked["ebpf"]:
        click.echo(_source(asked), nl=False)
        return 0
    options = build_options(asked, context.obj or ())
    if isinstance(options, RankingOptions):
        require_room()
        with compiler_started_early():
            return _rank(options)
    if isinstance(options.target, CommandTarget) and _is_for_programs(options.report.format):
        _warn_of_mixing(options.report)
    require_room()
    with compiler_started_early():
        return _trace(options)


def _rank(options: RankingOptions) -> int:
    """Needs no privilege: without, fewer figures are known."""
    load_numpy()
    from leaktrace.session.run import run  # noqa: PLC0415

    return run(options)


def _trace(options: ProcessOptions | KernelOptions) -> int:
    # Imported here, while a child may be loading the compiler: numpy takes as long.
    load_numpy()
    from leaktrace.machine.features import (  # noqa: PLC0415
        require_kernel_mode,
        require_user_mode,
    )
    from leaktrace.session.run import run  # noqa: PLC0415

    if isinstance(options.target, KernelTarget):
        require_kernel_mode()
    else:
        require_user_mode()
    return run(options)


def _source(asked: dict[str, Any]) -> str:
    """The BPF program that these options would run."""
    from leaktrace.kernel.program import KERNEL_FRAGMENTS  # noqa: PLC0415
    from leaktrace.process.program import FAULT_FRAGMENTS, FRAGMENTS  # noqa: PLC0415
    from leaktrace.ranking.new_pages import RANKING_FRAGMENTS  # noqa: PLC0415

    if asked["all_processes"]:
        return source_text(RANKING_FRAGMENTS)
    if asked["kernel"]:
        return source_text(KERNEL_FRAGMENTS)
    return source_text(FAULT_FRAGMENTS if asked["faults"] else FRAGMENTS)


def _is_for_programs(format_name: str) -> bool:
    return format_name == "json" or format_name in EXPORTS


def _warn_of_mixing(asked: ReportOptions) -> None:
    """A command writes to the same standard output: what programs read would be mixed with it."""
    if asked.output is None:
        written = "JSON lines" if asked.format == "json" else f"{asked.format} file"
        notify(
            f"the command writes to the same standard output as the {written}; "
            "--output FILE keeps them apart"
        )
