"""What the command line asks for: checked once, and turned into `Options`."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from leaktrace.cli.all_processes import ranking_options
from leaktrace.cli.contents import contents_asked
from leaktrace.cli.descriptors import check_fds
from leaktrace.cli.exit_code import leak_exit
from leaktrace.cli.exports import sites_asked
from leaktrace.cli.idle import idle_asked
from leaktrace.cli.kernel import kernel_max_stacks, kernel_target
from leaktrace.cli.live import with_live
from leaktrace.cli.lost import lost_asked, max_pause_asked
from leaktrace.cli.older import heap_asked
from leaktrace.cli.pairs import checked_pairs
from leaktrace.cli.processes import (
    follows,
    names_a_process,
    processes_of,
    refuse_tasks_as_interval,
)
from leaktrace.cli.record import record_asked
from leaktrace.cli.suppressions import checked_suppressions
from leaktrace.cli.values import refuse_given
from leaktrace.errors import UsageError
from leaktrace.notices import notify
from leaktrace.options import (
    MOST_SITES,
    By,
    CommandTarget,
    EventBuffer,
    Filters,
    KernelOptions,
    KernelTarget,
    Limits,
    ObjectChoice,
    Options,
    ProcessOptions,
    ProcessTarget,
    ReportOptions,
    SortKey,
    StackWalker,
    Target,
)
from leaktrace.report.periodic import has_time

_SHELL_WORDS = {"|", "||", "&", "&&", ";", "<", ">", ">>", "2>&1"}


def build_options(asked: dict[str, Any], words: Sequence[str]) -> Options:
    """Check what was asked and put it in its types. Raises UsageError."""
    if asked["all_processes"]:
        return ranking_options(asked, words)
    minimum, maximum = asked["min_size"], asked["max_size"]
    if minimum is not None and maximum is not None and minimum > maximum:
        raise UsageError(
            f"the minimum size (-z {minimum}) is above the maximum size (-Z {maximum})",
            "swap them, or leave one out",
        )
    if asked["sample_rate"] > 1 and asked["sample_bytes"] is not None:
        raise UsageError("-s and --sample-bytes can't be combined", "choose one of them")
    if asked["combined_only"] and (asked["show_allocs"] or asked["sort"] == SortKey.AGE.value):
        raise UsageError(
            "--combined-only can't be combined with -a or --sort age: it records no ages and no "
            "single allocations",
            "leave out --combined-only, or -a and --sort age",
        )
    if asked["faults"]:
        _refuse_with_faults(asked)
    sampled = asked["sample_rate"] > 1 or asked["sample_bytes"] is not None
    if sampled and asked["max_overhead_percent"] is not None:
        raise UsageError(
            "--max-overhead can't be combined with -s or --sample-bytes: it starts sampling itself",
            "leave out -s and --sample-bytes",
        )
    target = target_of(asked, words)
    pairs = checked_pairs(asked)
    check_fds(asked)
    filters = Filters(minimum, maximum, asked["sample_rate"], asked["sample_bytes"])
    limits = Limits(
        asked["max_allocs"],
        kernel_max_stacks(asked) if isinstance(target, KernelTarget) else asked["max_stacks"],
        asked["max_threads"],
        asked["max_processes"],
        asked["event_buffer_size"],
    )
    common: dict[str, Any] = {
        "filters": filters,
        "limits": limits,
        "report": with_live(
            asked, _report_options(asked), is_command=isinstance(target, CommandTarget)
        ),
        "event_buffer": EventBuffer(asked["event_buffer"]),
        "suppressions": checked_suppressions(asked),
        "leak_exit": leak_exit(asked),
        "record": record_asked(asked),
    }
    if isinstance(target, KernelTarget):
        lost_asked(asked)
        max_pause_asked(asked)
        heap_asked(asked, target)
        contents_asked(asked)
        idle_asked(asked)
        return KernelOptions(target=target, **common)
    return ProcessOptions(
        target=target,
        **common,
        objects=ObjectChoice(asked["obj"], asked["symbols_prefix"]),
        stack_walker=StackWalker(asked["stack_walker"]),
        faults=asked["faults"],
        probe_returns=asked["probe_returns"],
        max_overhead_percent=asked["max_overhead_percent"],
        follow=follows(asked, target),
        pairs=pairs,
        fds=asked["fds"],
        malloc=not asked["no_malloc"],
        lost=lost_asked(asked),
        max_pause_ms=max_pause_asked(asked),
        **heap_asked(asked, target),
        holders=asked["holders"],
        contents=contents_asked(asked),
        idle_s=idle_asked(asked),
    )


def _report_options(asked: dict[str, Any]) -> ReportOptions:
    older_given = click.get_current_context().get_parameter_source("older_ms")
    return ReportOptions(
        format=asked["format_name"],
        output=None if asked["output"] == Path("-") else asked["output"],
        keep=_keep(asked),
        interval_s=asked["interval"],
        count=asked["count"],
        quantity=asked["quantity"],
        top=sites_asked(asked),
        recorded=0 if asked["record"] is None else MOST_SITES,
        sort=_sort_key(asked),
        by=By(asked["by"]),
        older_ms=asked["older_ms"],
        older_was_given=older_given is click.core.ParameterSource.COMMANDLINE,
        show_allocs=asked["show_allocs"],
        combined_only=asked["combined_only"],
        trace=asked["trace"],
        verbose=asked["verbose"],
        full_stacks=asked["full_stacks"],
        depth=asked["depth"],
        lines=not asked["no_lines"],
        inlines=not asked["no_inline"],
    )


def _keep(asked: dict[str, Any]) -> int | None:
    keep: int | None = asked["keep"]
    if keep is not None and (asked["output"] is None or not has_time(asked["output"])):
        raise UsageError(
            "--keep needs --output with parts of the time in the name of the file",
            "for example: --output 'leak-%Y%m%d-%H%M.json' --keep 24",
        )
    return keep


def _sort_key(asked: dict[str, Any]) -> SortKey:
    if asked["sort"] is not None:
        return SortKey(asked["sort"])
    # memleak sorts by size, and what is read from page faults has no verdict.
    is_by_size = asked["format_name"] == "memleak" or asked["faults"]
    return SortKey.SIZE if is_by_size else SortKey.GROWTH


def _refuse_with_faults(asked: dict[str, Any]) -> None:
    """Raise UsageError for options about calls, sizes and ages, which page faults don't have."""
    given = {
        "-t": asked["trace"],
        "-a": asked["show_allocs"],
        "-s": asked["sample_rate"] > 1,
        "--sample-bytes": asked["sample_bytes"] is not None,
        "-z": asked["min_size"] is not None,
        "-Z": asked["max_size"] is not None,
        "-O": asked["obj"] is not None,
        "--symbols-prefix": asked["symbols_prefix"],
        "--pair": asked["pair"],
        "--fds": asked["fds"],
        "--no-malloc": asked["no_malloc"],
        "--max-overhead": asked["max_overhead_percent"] is not None,
        "--sort age": asked["sort"] == SortKey.AGE.value,
        "--probe-returns": asked["probe_returns"],
    }
    refuse_given(given, "--faults", "page faults are not allocation calls")


def target_of(asked: dict[str, Any], words: Sequence[str]) -> Target:
    """What to trace: exactly one process, command, or the kernel. Raises UsageError."""
    names_processes = bool(asked["pid"] or asked["name"] is not None or asked["cgroup"])
    given = [names_processes, asked["command"] is not None, bool(words), asked["kernel"]]
    if sum(given) != 1:
        problem = "more than one target" if any(given) else "there is nothing to trace"
        if asked["kernel"] and asked["pid"]:
            raise UsageError(
                "--kernel and -p can't be combined",
                "for the kernel memory that one process allocates: leaktrace --kernel --task PID",
            )
        interval = asked["interval"]
        if not any(given) and interval is not None and names_a_process(interval):
            raise UsageError(
                f"{interval:g} would be the INTERVAL, and there is nothing to trace",
                f"did you mean -p {interval:g}? If not, give a target: see leaktrace --help",
            )
        raise UsageError(
            f"{problem}: give -p PID, --name or --cgroup; or one of -c CMD, -- CMD ARGS, --kernel, "
            "--all-processes",
            "for example: leaktrace -p 4242; see leaktrace --help",
        )
    pass_exit_code = asked["exit_code"].is_of_child
    if pass_exit_code and not words and asked["command"] is None:
        raise UsageError(
            "--exit-code child needs a command that leaktrace starts",
            "add -c CMD, or leave out --exit-code",
        )
    in_kernel = kernel_target(asked)
    pid = asked["task"]
    if in_kernel is not None:
        if pid is not None:
            refuse_tasks_as_interval(pid, asked["interval"], asked["count"])
        return in_kernel
    if names_processes:
        return ProcessTarget(processes_of(asked))
    if words:
        return CommandTarget(tuple(words), pass_exit_code)
    try:
        argv = tuple(shlex.split(asked["command"]))
    except ValueError as error:
        raise UsageError(
            f"the command can't be split into words: {error}", "check its quotes"
        ) from None
    if argv and re.match(r"[A-Za-z_]\w*=", argv[0]):
        raise UsageError(
            f"no shell runs the command, so {argv[0]} can't set a variable",
            f"use env(1): -c 'env {asked['command']}'",
        )
    if _SHELL_WORDS.intersection(argv):
        notify(
            "no shell runs the command: shell syntax in it is passed on as plain words "
            "(to run it in a shell: -c \"sh -c 'exec …'\")",
        )
    if not argv:
        raise UsageError("the command is empty", "give a program to run: -c './server -v'")
    return CommandTarget(argv, pass_exit_code)
