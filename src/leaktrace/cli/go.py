"""`leaktrace go`: what the goroutines of a Go program wait for, which pile up, and its heap."""

from __future__ import annotations

from pathlib import Path

import click

from leaktrace.analysis.quantities import Quantity
from leaktrace.cli.commands import SETTINGS, Command
from leaktrace.cli.exit_code import ExitCode, go_exit_code_options, go_leak_exit
from leaktrace.cli.exports import ALL_SITES, OF_ONE_QUANTITY, is_given
from leaktrace.cli.one_target import only_one, output_option, pid_option
from leaktrace.cli.processes import refuse_tasks_as_interval
from leaktrace.cli.record import refuse_record
from leaktrace.cli.values import Interval, Seconds, WholeNumber, refuse_given
from leaktrace.errors import UsageError
from leaktrace.options import GoOptions, GoProfile
from leaktrace.report import EXPORTS, GO_EXPORTS, GO_FORMATS, PAGE

_USAGE = "leaktrace go -p PID [INTERVAL] [COUNT]"


_ENABLE = "--go-enable-profile"
_SAMPLE = "--go-sample-refills"
_DEFAULT_RATE = 512 << 10  # that of Go
_SMALLEST_RATE = 512
_QUANTITIES = [one.value for one in Quantity if one is not Quantity.GROWTH]


class GoCommand(Command):
    """Looks at one process at a time."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # The word behind the option is the interval: a rate is written with =.
        words = [f"{_ENABLE}={_DEFAULT_RATE}" if word == _ENABLE else word for word in args]
        return super().parse_args(ctx, words)

    advice = f"one process at a time: {_USAGE}"


@click.command("go", cls=GoCommand, context_settings=SETTINGS)
@click.argument("interval", type=Interval(), required=False, metavar="[INTERVAL]")
@click.argument("count", type=WholeNumber(1), required=False, metavar="[COUNT]")
@pid_option("Look at this process.")
@click.option(
    "-T",
    "--top",
    type=WholeNumber(1),
    default=GoOptions.top,
    show_default=True,
    metavar="N",
    help="Show at most N groups of goroutines, and N entries of each list of the heap.",
)
@click.option(
    _ENABLE,
    "profile_rate_bytes",
    type=WholeNumber(_SMALLEST_RATE),
    metavar="[=RATE]",
    help="Switch on the Go runtime's profile of the heap where it is off, to see where memory is "
    "allocated from now on. THIS WRITES ONE WORD to the process (runtime.MemProfileRate), and puts "
    "it back at the end, also after Ctrl-C or an error. After kill -9 of leaktrace it stays, until "
    "the next `leaktrace go -p PID` puts it back. One allocation in RATE bytes is recorded "
    f"({_DEFAULT_RATE}); less costs the program more.",
)
@click.option(
    _SAMPLE,
    "sample_refills",
    is_flag=True,
    help="Sample where memory is allocated from now on, where the Go runtime keeps no profile of "
    "the heap: by eBPF, each time when its allocator gets memory for more objects. Nothing is "
    "written to the data of the process; its code has two breakpoints meanwhile. Shows what is "
    "allocated per second, NOT what is still in use. Needs root, and Go 1.19 or 1.21 to 1.27.",
)
@click.option(
    "-f",
    "--format",
    "format_name",
    type=click.Choice([*GO_FORMATS, *EXPORTS]),
    default="text",
    show_default=True,
    help="text: for reading; json: one JSON object per line. Files for other tools, of the "
    "--profile with all its stacks, written after the last look: "
    + "; ".join(f"{name}: {one.summary}" for name, one in GO_EXPORTS.items())
    + f". {PAGE}: a page with all looks, written after the last one: verdicts, heap and goroutines "
    "over time, allocation sites, groups, flame graphs.",
)
@click.option(
    "--profile",
    type=click.Choice([one.value for one in GoProfile]),
    help="What the files for other tools have: heap (the default), the Go runtime's own profile "
    "of its heap; or goroutine, how many goroutines there are of each stack.",
)
@click.option(
    "--quantity",
    type=click.Choice(_QUANTITIES),
    metavar="QUANTITY",
    help=f"What -f {OF_ONE_QUANTITY} shows of each stack of the heap: {', '.join(_QUANTITIES)} "
    f"(default: {Quantity.IN_USE}).",
)
@click.option(
    "--record",
    type=click.Path(path_type=Path),
    multiple=True,
    callback=only_one("name one file"),
    metavar="FILE",
    help="Also write all reports, with all groups and all allocation sites, to this file, as JSON "
    "for leaktrace diff. A name that ends in .gz or .zst is compressed. No file is replaced.",
)
@go_exit_code_options
@output_option
def command(
    *,
    interval: Seconds | None,
    count: int | None,
    pid: int | None,
    top: int,
    format_name: str,
    profile: str | None,
    quantity: str | None,
    record: Path | None,
    output: Path | None,
    profile_rate_bytes: int | None,
    sample_refills: bool,
    exit_code: ExitCode,
    leak_threshold: float | None,
) -> int:
    """Show what the goroutines of a Go program wait for, which pile up, and its heap.

    Goroutines with the same stack that wait for the same and were created at the same line are one
    group. With INTERVAL there is a report every INTERVAL seconds, COUNT times (default: until
    interrupted). After three looks, "leaking" is a group that only grows, while none of its
    goroutines leaves it. Without INTERVAL there is one report, which shows no growth.

    The heap grows if collections of garbage leave ever more in use, at six looks or more.

    Each report also shows the heap: the settings of the collector, objects by size and by type (Go
    1.22), what grew since the first look, and where memory was allocated, from the profile that the
    Go runtime itself keeps. A program without a reader of that profile has none.

    The program may be stripped, and needs no pprof endpoint. It is not stopped, nothing is written
    to it (but with --go-enable-profile), and no BPF is needed (but with --go-sample-refills): its
    memory is read as it runs. Needs Go 1.18 or later, on x86-64. Processes of other users need
    CAP_SYS_PTRACE.
    """
    if pid is None:
        raise UsageError("there is nothing to look at: give -p PID", f"for example: {_USAGE}")
    if profile_rate_bytes is not None and sample_refills:
        raise UsageError(
            f"{_ENABLE} and {_SAMPLE} are two ways to the same: a profile of the heap",
            f"give one of them; {_SAMPLE} writes no data to the process",
        )
    asked = _ENABLE if profile_rate_bytes is not None else _SAMPLE if sample_refills else ""
    if asked and interval is None:
        raise UsageError(
            f"{asked} shows what is allocated from now on, and there is only one look",
            f"give an interval: leaktrace go -p PID {asked} 5",
        )
    leak_exit = go_leak_exit(exit_code, leak_threshold)
    if leak_exit is not None and interval is None:
        raise UsageError(
            "--exit-code leak needs several looks: one shows no growth",
            "give an interval, and how many: leaktrace go -p PID --exit-code leak 10 12",
        )
    if interval is not None:
        refuse_tasks_as_interval(pid, interval, count, "leaktrace go")
    refuse_record(record, output)
    exported = _exported(format_name, profile, quantity)
    if format_name in EXPORTS:
        why = "its samples are in reports (-f text, -f json)"
        refuse_given({_SAMPLE: sample_refills}, f"-f {format_name}", why)
    from leaktrace.session.go import run_go  # noqa: PLC0415

    return run_go(
        GoOptions(
            pid=pid,
            interval_s=interval,
            count=count,
            top=ALL_SITES if format_name in EXPORTS else top,
            format=format_name,
            output=None if output == Path("-") else output,
            profile_rate_bytes=profile_rate_bytes,
            profile=exported,
            quantity=quantity or Quantity.IN_USE,
            sample_refills=sample_refills,
            record=record,
            leak_exit=leak_exit,
        )
    )


def _exported(format_name: str, profile: str | None, quantity: str | None) -> GoProfile | None:
    """Which profile is written to a file for another tool; None: none, but reports, or a page with
    both. Raises UsageError for options that can't be combined."""
    if format_name in EXPORTS:
        refuse_given({"-T": is_given("top")}, f"-f {format_name}", "its files have all stacks")
    if format_name == PAGE:
        refuse_given({"--profile": profile}, f"-f {format_name}", "the page has both")
        refuse_given({"--quantity": quantity}, f"-f {format_name}", "the page has all of them")
        return None
    if format_name not in GO_EXPORTS:
        why = "it is for the files of other tools (-f pprof)"
        refuse_given({"--profile": profile, "--quantity": quantity}, f"-f {format_name}", why)
        return None
    which = GoProfile(profile or GoProfile.HEAP)
    if format_name != OF_ONE_QUANTITY:
        why = f"it is for -f {OF_ONE_QUANTITY}"
        refuse_given({"--quantity": quantity}, f"-f {format_name}", why)
    if which is GoProfile.GOROUTINE:
        why = "there is one figure, how many there are"
        refuse_given({"--quantity": quantity}, "--profile goroutine", why)
        if format_name == "massif":
            raise UsageError(
                "-f massif shows bytes, and goroutines are counted",
                "use another format, such as -f pprof",
            )
    return which
