"""Opens a tracer of a process: starts or finds the target, compiles and loads the BPF program,
plans and attaches the probes.

Whatever goes wrong on the way, what was opened before is closed, in the same order as at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from pathlib import Path

from leaktrace.analysis.sampling import Sampling, gap_table, weight_table
from leaktrace.bpf import support
from leaktrace.bpf.events import EventStream
from leaktrace.errors import EnvironmentUnfitError, LeaktraceError
from leaktrace.notices import notify
from leaktrace.options import CommandTarget, ProcessOptions
from leaktrace.printable import printable
from leaktrace.process import descriptor_calls
from leaktrace.process.attach.attachments import Lifecycle, StoredPoints
from leaktrace.process.attach.keeper import Keeper, KeeperGoneError
from leaktrace.process.event_intake import EventDispatch
from leaktrace.process.family import Family
from leaktrace.process.knobs import slot_count
from leaktrace.process.opening import Opening, Planning, Plans, Target
from leaktrace.process.program import Compilation, Program
from leaktrace.process.tracer import Streams, Tracer
from leaktrace.symbols.demangle import hurry_when
from leaktrace.symbols.lookups import Lookups
from leaktrace.targets.access import require_access
from leaktrace.targets.command import StartedCommand
from leaktrace.targets.namespaces import pids_are_global
from leaktrace.targets.process import Process
from leaktrace.targets.stopped import why_stopped
from leaktrace.tracing.opening import closed_on_failure
from leaktrace.unwind.budget import TableBudget
from leaktrace.unwind.placed import PlacedTables

_MOST_SHOWN = 5  # processes in a message


@dataclass(frozen=True)
class _Closing:
    """What a tracer closes at the end, from the last field to the first. The order in which the
    parts were opened does not matter."""

    keeper: ExitStack  # last, because it guards the command
    command: ExitStack
    processes: ExitStack
    program: ExitStack
    lifecycle: ExitStack
    streams: ExitStack
    lookups: ExitStack
    family: ExitStack  # each process: its probes, then what looks at what they left behind

    @classmethod
    def within(cls, stack: ExitStack) -> _Closing:
        return cls(**{field.name: stack.enter_context(ExitStack()) for field in fields(cls)})


def open_tracer(
    options: ProcessOptions,
    knobs: Mapping[str, int] | None = None,
    interrupted: Callable[[], bool] = lambda: False,
) -> Tracer:
    """A tracer with its probes attached. It records from `arm()` on.

    `knobs` (bpf/*/config.h) that no option sets are for tests. `interrupted` says whether the
    run is about to end, so that nothing is worth waiting for. Raises LeaktraceError.
    """
    hurry_when(interrupted)
    if options.fds:
        descriptor_calls.require_support()
    options = _as_supported(options)
    lookups, slots = Lookups(interrupted), slot_count(options)
    planning = Planning(options, TableBudget(interrupted), lookups, PlacedTables(slots))
    with closed_on_failure() as stack:
        closing = _Closing.within(stack)
        closing.lookups.callback(lookups.close)
        targets = _begin(options, closing)
        keeper = _start_keeper(options, closing)
        with Compilation(options, knobs or {}) as compilation:
            # If the program has to be compiled, that happens on another core meanwhile.
            plans = _plan(planning, targets, compilation)
            program = compilation.finish()
            closing.program.callback(program.close)
            if compilation.cache_problem and options.report.verbose:
                notify(
                    f"the compiled program is not cached: {printable(compilation.cache_problem)}"
                )
        if program.descriptor_calls is not None:
            descriptor_calls.fill(program.descriptor_calls)
        _fill_sampling(program, Sampling.from_filters(options.filters).mean_bytes)
        streams = _open_streams(program, closing)
        closing.lifecycle.callback(Lifecycle(program).close)
        events = EventDispatch(streams.regions)
        points = StoredPoints(program.points)
        opening = Opening(options, program, lookups, keeper, events, points)
        family = Family(
            program, events, planning, opening, keeper, slots=slots, follows=options.follow
        )
        closing.family.callback(family.close)
        _open(family, opening, plans, keeper)
        return Tracer(
            options,
            program=program,
            family=family,
            streams=streams,
            events=events,
            keeper=keeper,
            resources=stack,
        )


def _as_supported(options: ProcessOptions) -> ProcessOptions:
    """The same options, without what this kernel can't do for several processes.

    Raises EnvironmentUnfitError where several processes were named.
    """
    if not options.may_be_several:
        return options
    if options.faults and not pids_are_global():
        problem = "in a pid namespace, --faults traces one process"
    elif not options.faults and not support.has_attach_cookie():
        problem = "this kernel can't tell the probes of several processes apart (Linux 5.15 can)"
    else:
        return options
    if options.command is None:
        raise EnvironmentUnfitError(problem, "name one process, and leave out --follow")
    notify(f"{problem}: children of the command are not traced")
    return replace(options, follow=False)


def _begin(options: ProcessOptions, closing: _Closing) -> list[Target]:
    """Start the command, or find the processes. Raises LeaktraceError."""
    if options.probe_returns:
        notify("return probes kill a process that throws an exception through an allocator")
    if isinstance(options.target, CommandTarget):
        command = StartedCommand(options.target.argv)
        closing.command.callback(command.end)
        notify(f"attaching to pid {command.pid} ({Path(command.path).name})…")
        process = Process(command.pid)
        closing.processes.callback(process.close)
        return [Target(process, command)]
    found = list(_find(options.target.pids, closing, to_memory=not options.faults))
    shown = ", ".join(f"{one.pid} ({one.process.name})" for one in found[:_MOST_SHOWN])
    more = len(found) - _MOST_SHOWN
    pids = "pid" if len(found) == 1 else f"{len(found)} processes: pid"
    notify(f"attaching to {pids} {shown}{f' and {more} more' if more > 0 else ''}…")
    for one in found:
        stopped = why_stopped(one.pid)
        if stopped:
            notify(f"pid {one.pid}: {stopped}")
    return found


def _find(pids: Sequence[int], closing: _Closing, *, to_memory: bool) -> Iterator[Target]:
    """Those of several processes that can be traced; the others are told. Raises LeaktraceError
    when there is none."""
    first_error: LeaktraceError | None = None
    count = 0
    for pid in pids:
        try:
            process = Process(pid)
            closing.processes.callback(process.close)
            require_access(pid, to_memory=to_memory)
        except LeaktraceError as error:
            if len(pids) == 1:
                raise
            first_error = first_error or error
            notify(f"not traced: {error.message}")
            continue
        count += 1
        yield Target(process, is_only=len(pids) == 1)
    if first_error is not None and not count:
        raise first_error


def _start_keeper(options: ProcessOptions, closing: _Closing) -> Keeper | None:
    """Page faults of a running process need no keeper. It starts on another core, long before it is
    needed."""
    if options.command is None and options.faults:
        return None
    keeper = Keeper()
    closing.keeper.callback(keeper.end)
    return keeper


def _plan(planning: Planning, targets: Sequence[Target], compilation: Compilation) -> list[Plans]:
    """Choose the probes, and build the unwind tables, of the processes that can be traced; the
    others are told. Raises LeaktraceError when there is none."""
    plans: list[Plans] = []
    refused: list[LeaktraceError] = []
    for target in targets:
        try:
            wants_tables = compilation.wants_tables
            plans.append(planning.plan(target, compilation, with_tables=wants_tables))
        except LeaktraceError as error:
            if len(targets) == 1:
                raise
            refused.append(error)
            notify(f"not traced: process {target.pid} ({target.process.name}): {error.message}")
    if not plans:
        raise refused[0]
    if len(targets) > 1:
        planning.require_pairs(plans)
    return plans


def _open(family: Family, opening: Opening, plans: Sequence[Plans], keeper: Keeper | None) -> None:
    """Attach the probes. Raises LeaktraceError when nothing can be hooked."""
    refused: list[LeaktraceError] = []
    for plan in plans:
        command = plan.target.command
        if keeper is not None and command is not None:
            keeper.guard(command.pid)
            family.is_kept = True
        slot = family.take_slot()
        assert slot is not None  # the command line limits the processes to the slots
        try:
            family.add(opening.open(plan, slot))
        except LeaktraceError as error:
            if len(plans) == 1 or isinstance(error, KeeperGoneError):
                raise
            family.give_back(slot)
            refused.append(error)
            notify(f"not traced: process {plan.target.pid}: {error.message}")
    if not len(family):
        raise refused[0]


def _fill_sampling(program: Program, mean_bytes: int | None) -> None:
    """Write the tables of sampling by bytes."""
    if mean_bytes is not None and program.sample_gaps and program.sample_weights:
        program.sample_gaps.write_mapped(0, gap_table(mean_bytes))
        program.sample_weights.write_mapped(0, weight_table())


def _open_streams(program: Program, closing: _Closing) -> Streams:
    """Raises ProgramError."""
    regions = EventStream(
        program.region_events_fd, is_ring=program.ring_buffer, pages=program.region_pages
    )
    closing.streams.callback(regions.close)
    if program.trace_events_fd is None:
        return Streams(regions, None)
    calls = EventStream(
        program.trace_events_fd, is_ring=program.ring_buffer, pages=program.event_pages
    )
    closing.streams.callback(calls.close)
    return Streams(regions, calls)
