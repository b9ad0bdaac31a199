"""What the command line asks for, checked once and put in its types."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from leaktrace.cli.kernel import kernel_max_stacks
from leaktrace.cli.target import target_of
from leaktrace.errors import UsageError
from leaktrace.options import (
    EventBuffer,
    Filters,
    KernelOptions,
    KernelTarget,
    Limits,
    ObjectChoice,
    Options,
    ProcessOptions,
    ReportOptions,
    SortKey,
    StackWalker,
)


def build_options(asked: dict[str, Any], words: Sequence[str]) -> Options:
    """Check what was asked and put it in its types. Raises UsageError."""
    minimum, maximum = asked["min_size"], asked["max_size"]
    if minimum is not None and maximum is not None and minimum > maximum:
        raise UsageError(
            f"the minimum size (-z {minimum}) is above the maximum size (-Z {maximum})",
            "swap them, or leave one out",
        )
    if asked["sample_rate"] > 1 and asked["sample_bytes"] is not None:
        raise UsageError("-s and --sample-bytes are two ways of sampling", "choose one of them")
    if asked["combined_only"] and (asked["show_allocs"] or asked["sort"] == SortKey.AGE.value):
        raise UsageError(
            "--combined-only knows no single allocations, and so no ages",
            "leave it out, or -a and --sort age",
        )
    if asked["faults"]:
        _refuse_with_faults(asked)
    sampled = asked["sample_rate"] > 1 or asked["sample_bytes"] is not None
    if sampled and asked["max_overhead_percent"] is not None:
        raise UsageError(
            "--max-overhead begins to sample by itself", "leave out -s and --sample-bytes"
        )
    target = target_of(asked, words)
    filters = Filters(minimum, maximum, asked["sample_rate"], asked["sample_bytes"])
    limits = Limits(
        asked["max_allocs"],
        kernel_max_stacks(asked) if isinstance(target, KernelTarget) else asked["max_stacks"],
        asked["max_threads"],
        asked["event_buffer_size"],
    )
    report = _report_options(asked)
    event_buffer = EventBuffer(asked["event_buffer"])
    if isinstance(target, KernelTarget):
        return KernelOptions(
            target=target, filters=filters, limits=limits, report=report, event_buffer=event_buffer
        )
    return ProcessOptions(
        target=target,
        filters=filters,
        limits=limits,
        report=report,
        event_buffer=event_buffer,
        objects=ObjectChoice(asked["obj"], asked["symbols_prefix"]),
        stack_walker=StackWalker(asked["stack_walker"]),
        faults=asked["faults"],
        probe_returns=asked["probe_returns"],
        max_overhead_percent=asked["max_overhead_percent"],
    )


def _report_options(asked: dict[str, Any]) -> ReportOptions:
    older_given = click.get_current_context().get_parameter_source("older_ms")
    return ReportOptions(
        format=asked["format_name"],
        output=None if asked["output"] == Path("-") else asked["output"],
        interval_s=asked["interval"],
        count=asked["count"],
        top=asked["top"],
        sort=SortKey(asked["sort"]),
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


def _refuse_with_faults(asked: dict[str, Any]) -> None:
    """Page faults know no calls, no sizes and no ages."""
    given = {
        "-t": asked["trace"],
        "-a": asked["show_allocs"],
        "-s": asked["sample_rate"] > 1,
        "--sample-bytes": asked["sample_bytes"] is not None,
        "-z": asked["min_size"] is not None,
        "-Z": asked["max_size"] is not None,
        "-O": asked["obj"] is not None,
        "--symbols-prefix": asked["symbols_prefix"],
        "--max-overhead": asked["max_overhead_percent"] is not None,
        "--sort age": asked["sort"] == SortKey.AGE.value,
        "--probe-returns": asked["probe_returns"],
    }
    for option, is_given in given.items():
        if is_given:
            raise UsageError(
                f"{option} does not go with --faults", "page faults are no allocation calls"
            )
