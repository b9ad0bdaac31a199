"""The command line: options checked once, built into `Options`; the only place that exits."""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import click

from leaktrace import __version__
from leaktrace.bpf.build import compiler_started_early
from leaktrace.bpf.sources import source_text
from leaktrace.cli.errors import guarded
from leaktrace.cli.kernel import kernel_options
from leaktrace.cli.one_target import Seconds, one_command, one_process, only_one, refuse_more_words
from leaktrace.cli.options import build_options
from leaktrace.errors import UsageError
from leaktrace.notices import tell
from leaktrace.options import (
    CommandTarget,
    EventBuffer,
    KernelTarget,
    Limits,
    Options,
    SortKey,
    StackWalker,
)
from leaktrace.own.shortages import load_numpy, require_room
from leaktrace.report import FORMATS

_EXAMPLES = """\b
Examples:
  leaktrace -p 4242             what process 4242 leaks, every 5 seconds
  leaktrace -p 4242 60 10       ten reports, one a minute
  leaktrace -c './server -v'    start a command, traced from its beginning
  leaktrace 1 -- ./server -v    the same, with the command's own words
  leaktrace -p 4242 -t          every single call as it happens
  leaktrace -p 4242 -f json     one JSON object a line for other programs
  leaktrace --kernel            what the kernel itself allocates and keeps
  leaktrace doctor              what this machine offers, and what is missing

\b
Exit status: 0 done, 1 error, 2 usage, 3 a privilege, kernel feature or
resource is missing, 4 the process is gone or can't be traced.
"""


class TraceCommand(click.Command):
    """Takes everything behind `--` as the command to run, whatever its words look like."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            at = args.index("--")
            ctx.obj = tuple(args[at + 1 :])
            args = args[:at]
        ctx.allow_extra_args = True  # they are told of here
        rest = super().parse_args(ctx, args)
        refuse_more_words(ctx.args, ctx.params.get("pid"))
        return rest

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, command.get_short_help_str(60)) for name, command in COMMANDS.items()]
            )
        super().format_epilog(ctx, formatter)


_LONGEST_INTERVAL_S = 1_000_000  # a timer of the kernel takes no more


class _Interval(click.FloatRange):
    def __init__(self) -> None:
        super().__init__(min=0, min_open=True)

    def convert(
        self,
        value: Any,  # noqa: ANN401
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Seconds:
        seconds = super().convert(value, param, ctx)
        if math.isnan(seconds):
            self.fail(f"{value} is not a number of seconds", param, ctx)
        if seconds > _LONGEST_INTERVAL_S:
            raise UsageError(
                f"an interval of {value} seconds is too long: {_LONGEST_INTERVAL_S:,} at most",
                "INTERVAL is in seconds, and -p takes one process id: "
                "leaktrace -p PID [INTERVAL] [COUNT]",
            )
        return Seconds.from_word(value)


# What the BPF program and its maps can take.
_MOST_ENTRIES = 1 << 31
_MOST_BYTES = (1 << 64) - 1
_MOST_SAMPLED = (1 << 32) - 1
_MOST_SAMPLED_BYTES = 1 << 40


def _integer(minimum: int, maximum: int | None = None) -> click.IntRange:
    return click.IntRange(min=minimum, max=maximum)


@click.command(
    "leaktrace",
    cls=TraceCommand,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
    options_metavar="[OPTIONS]",
    epilog=_EXAMPLES,
)
@click.argument("interval", type=_Interval(), default=5.0, metavar="[INTERVAL]")
@click.argument("count", type=_integer(1), required=False, metavar="[COUNT]")
@click.option(
    "-p",
    "--pid",
    type=_integer(1),
    multiple=True,
    callback=one_process,
    metavar="PID",
    help="Trace this process.",
)
@click.option(
    "-c",
    "--command",
    multiple=True,
    callback=one_command,
    metavar="CMD",
    help="Start this command (shell words, no shell) and trace it from its first instruction. "
    "The same: leaktrace [OPTIONS] -- CMD ARGS. It is stopped for a moment at its first "
    "allocation, and ended if leaktrace ends first (SIGTERM, after 5 seconds SIGKILL).",
)
@click.option(
    "--faults",
    is_flag=True,
    help="A first look that costs next to nothing: which call paths make resident memory grow, by "
    "page faults instead of allocation calls. Shows new pages, not what was freed: who touches a "
    "page first need not be who keeps it.",
)
@kernel_options
@click.option(
    "-t",
    "--trace",
    is_flag=True,
    help="Print every call as it happens, one a line: seconds (CLOCK_MONOTONIC, as in "
    "dmesg), thread, function, bytes, address, callers. Of a release (bytes with a minus) "
    "the callers are those that allocated the block.",
)
@click.option(
    "-a", "--show-allocs", is_flag=True, help="List the single allocations, with addresses."
)
@click.option(
    "-o",
    "--older",
    "older_ms",
    type=_integer(0),
    default=500,
    show_default=True,
    metavar="MS",
    help="Leave allocations younger than this out of the sites (in milliseconds). The last "
    "report of a process that has ended shows all, unless this option is given.",
)
@click.option(
    "--combined-only",
    is_flag=True,
    help="Report from the sites' counters alone: cheaper with many allocations, without ages.",
)
@click.option(
    "--wa-missing-free",
    is_flag=True,
    help="Accepted for memleak's sake: always on. An address handed out again replaces its record, "
    "and is counted.",
)
@click.option(
    "-s",
    "--sample-rate",
    type=_integer(1, _MOST_SAMPLED),
    default=1,
    show_default=True,
    metavar="N",
    help="Record one allocation in N, chosen at random. Figures are scaled up and marked as "
    "estimates.",
)
@click.option(
    "--sample-bytes",
    type=_integer(1, _MOST_SAMPLED_BYTES),
    metavar="N",
    help="Record about one allocation in N bytes, large ones more likely than small: better "
    "estimates of bytes than -s, at the same cost. Figures are shown with their standard error.",
)
@click.option(
    "-T",
    "--top",
    type=_integer(1),
    default=10,
    show_default=True,
    metavar="N",
    help="Show this many sites.",
)
@click.option(
    "-z",
    "--min-size",
    type=_integer(0, _MOST_BYTES),
    metavar="BYTES",
    help="Record only allocations of at least this size.",
)
@click.option(
    "-Z",
    "--max-size",
    type=_integer(0, _MOST_BYTES),
    metavar="BYTES",
    help="Record only allocations of at most this size.",
)
@click.option(
    "-O",
    "--obj",
    multiple=True,
    callback=only_one("leave it out: the allocators of all objects are hooked then"),
    metavar="OBJ",
    help="Hook the allocator of this object only: a path, a file name, or a library's short name "
    "(c, jemalloc). Otherwise: of every object that defines malloc and free.",
)
@click.option(
    "--symbols-prefix",
    multiple=True,
    callback=only_one("start one leaktrace for each prefix", default=""),
    metavar="PREFIX",
    help="The allocator's functions are called PREFIXmalloc, PREFIXfree…",
)
@click.option(
    "--sort",
    type=click.Choice([key.value for key in SortKey]),
    default=SortKey.SIZE.value,
    show_default=True,
    help="What the sites are ordered by.",
)
@click.option(
    "-f",
    "--format",
    "format_name",
    type=click.Choice(list(FORMATS)),
    default="text",
    show_default=True,
    help="; ".join(f"{name}: {reporter.summary}" for name, reporter in FORMATS.items()) + ".",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    multiple=True,
    callback=only_one("name one file; tee(1) writes to several"),
    metavar="FILE",
    help="Write reports to this file, in place of what it holds; -: standard output.",
)
@click.option(
    "--max-allocs",
    type=_integer(1, _MOST_ENTRIES),
    default=Limits.max_allocs,
    show_default=True,
    metavar="N",
    help="Room for this many outstanding allocations. What doesn't fit is counted.",
)
@click.option(
    "--max-stacks",
    type=_integer(1, _MOST_ENTRIES),
    default=Limits.max_stacks,
    show_default=True,
    metavar="N",
    help="Room for this many different stacks (with --kernel: 32768).",
)
@click.option(
    "--max-threads",
    type=_integer(1, _MOST_ENTRIES),
    default=Limits.max_threads,
    show_default=True,
    metavar="N",
    help="Room for this many threads at a time.",
)
@click.option(
    "--max-overhead",
    "max_overhead_percent",
    type=click.FloatRange(min=0, min_open=True),
    metavar="PERCENT",
    help="Let tracing take at most this share of the process's CPU time. Above it for three "
    "intervals, one allocation in 10 is recorded; three more, and leaktrace writes a last report "
    "and detaches. Less than 1 % of one CPU is never too much.",
)
@click.option(
    "--probe-returns",
    is_flag=True,
    help="Follow calls by return probes, as other tools do. For comparison: they replace return "
    "addresses, and a process that throws through an allocation function, or switches "
    "coroutines in one, dies of that.",
)
@click.option("--depth", type=_integer(1), metavar="N", help="Show this many frames of a stack.")
@click.option(
    "--full-stacks",
    is_flag=True,
    help="Show the frames of operator new and other wrappers that only hand a request on.",
)
@click.option("--no-inline", is_flag=True, help="Leave inlined functions out.")
@click.option(
    "--no-lines",
    is_flag=True,
    help="Leave source files and lines out: debug information is not read at all.",
)
@click.option(
    "--stack-walker",
    type=click.Choice([walker.value for walker in StackWalker]),
    default=StackWalker.AUTO.value,
    show_default=True,
    help="How stacks are walked: by the unwind tables of the binaries (eh_frame), which every "
    "distribution ships, or by frame pointers (fp), which most binaries lack.",
)
@click.option(
    "--event-buffer",
    type=click.Choice([choice.value for choice in EventBuffer]),
    default=EventBuffer.AUTO.value,
    show_default=True,
    help="How single events reach leaktrace: a BPF ring buffer, or perf buffers on kernels before "
    "5.8.",
)
@click.option(
    "--event-buffer-size",
    type=_integer(4096, _MOST_ENTRIES),
    default=Limits.event_buffer_bytes,
    show_default=True,
    metavar="BYTES",
    help="Room for events that wait for leaktrace: of --trace, and a fourth for those of mmap.",
)
@click.option(
    "--exit-code",
    type=click.Choice(["own", "child"]),
    default="own",
    show_default=True,
    help="With -c: leaktrace's own exit code, or the command's.",
)
@click.option("--ebpf", is_flag=True, help="Print the source of the BPF program, and exit.")
@click.option(
    "-v",
    "--verbose",
    is_flag=True,
    help="Tell on stderr what is hooked, and in each report what tracing costs.",
)
@click.version_option(__version__, "-V", "--version", message="leaktrace %(version)s")
@click.pass_context
def trace_command(context: click.Context, /, **asked: Any) -> int:  # noqa: ANN401
    """Find memory leaks of a running process, from outside.

    Shows which call sites hold memory that was allocated while leaktrace watched and has not been
    freed, every INTERVAL seconds (5), COUNT times (until interrupted). The process is not
    restarted, changed or stopped.
    """
    if asked["ebpf"]:
        click.echo(_source(asked), nl=False)
        return 0
    options = build_options(asked, context.obj or ())
    if isinstance(options.target, CommandTarget) and options.report.format == "json":
        _warn_of_mixing(options.report.output)
    require_room()
    with compiler_started_early():
        return _trace(options)


def _trace(options: Options) -> int:
    # Imported here, while a child may be loading the compiler: numpy takes as long.
    load_numpy()
    from leaktrace.machine.features import (  # noqa: PLC0415
        Machine,
        require_kernel_mode,
        require_user_mode,
    )
    from leaktrace.session.run import run  # noqa: PLC0415

    if isinstance(options.target, KernelTarget):
        require_kernel_mode(Machine())
    else:
        require_user_mode(Machine())
    return run(options)


def _source(asked: dict[str, Any]) -> str:
    """The BPF program that these options would run."""
    from leaktrace.kernel.program import KERNEL_FRAGMENTS  # noqa: PLC0415
    from leaktrace.process.program import FAULT_FRAGMENTS, FRAGMENTS  # noqa: PLC0415

    if asked["kernel"]:
        return source_text(KERNEL_FRAGMENTS)
    return source_text(FAULT_FRAGMENTS if asked["faults"] else FRAGMENTS)


def _warn_of_mixing(output: Path | None) -> None:
    """A command writes where leaktrace does: JSON lines would not be alone there."""
    if output is None:
        tell(
            "the command's own output goes to the same place as the JSON lines; "
            "--output FILE keeps them apart"
        )


class _Commands(Mapping[str, click.Command]):
    """The commands beside the default one, each imported when it is asked for."""

    _places: ClassVar[dict[str, tuple[str, str]]] = {
        "doctor": ("leaktrace.cli.doctor", "doctor_command"),
    }

    def __getitem__(self, name: str) -> click.Command:
        module, command = self._places[name]
        require_room()
        load_numpy()
        found = getattr(importlib.import_module(module), command)
        assert isinstance(found, click.Command)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, name: object) -> bool:
        return name in self._places


COMMANDS = _Commands()


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run, and exit with the code of the contract; never a traceback for what a user can cause."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    exit_code = guarded(lambda: _invoke(given), COMMANDS)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # its reader is gone: nobody misses it
            stream.flush()
    # Not sys.exit: Python would first take all its modules apart, for longer than probes take to
    # attach. Everything that outlives a process is closed by now.
    os._exit(exit_code)


def _invoke(arguments: list[str]) -> Any:  # noqa: ANN401
    """As command.main() does, which would make an error of a reader that has gone."""
    command: click.Command = trace_command
    name = "leaktrace"
    if arguments and arguments[0] in COMMANDS:
        command, name = COMMANDS[arguments[0]], f"leaktrace {arguments[0]}"
        arguments = arguments[1:]
    with command.make_context(name, arguments) as context:
        return command.invoke(context)
