"""Opens a tracer of a process: starts or finds the target, compiles and loads the BPF program,
plans and attaches the probes.

Whatever goes wrong on the way, what was opened before is closed, in the same order as at the end.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path

from leaktrace.analysis.sampling import Sampling, gap_table, weight_table
from leaktrace.bpf.events import EventStream
from leaktrace.errors import EnvironmentUnfitError
from leaktrace.notices import notify
from leaktrace.options import CommandTarget, ProcessOptions, StackWalker, SymbolOptions
from leaktrace.printable import printable
from leaktrace.process import notes
from leaktrace.process.allocator_mappings import AllocatorsOwn
from leaktrace.process.attach.attachments import Attachments
from leaktrace.process.attach.keeper import Keeper, KeeperGoneError
from leaktrace.process.attach.watch import ProbeWatch
from leaktrace.process.completeness import Completeness
from leaktrace.process.event_intake import Intake
from leaktrace.process.faults import PageFaults
from leaktrace.process.hooks import HookOptions, Hooks
from leaktrace.process.looks import Looks
from leaktrace.process.notes import Notes
from leaktrace.process.probes.allocators import OBJECTS_PROGRAM
from leaktrace.process.probes.object_plan import ObjectPlan, Way
from leaktrace.process.probes.pair_planner import PairPlanner
from leaktrace.process.probes.passed_over import nothing_to_hook
from leaktrace.process.probes.planner import Planner
from leaktrace.process.probes.program_files import objects_of_program
from leaktrace.process.program import FAULT_PROGRAM, Compilation, Program, way_of
from leaktrace.process.stack_names import StackNames
from leaktrace.process.table_follower import TableFollower
from leaktrace.process.traced import Traced, mappings_now
from leaktrace.process.tracer import Streams, Tracer
from leaktrace.symbols.demangle import hurry_when
from leaktrace.symbols.lookups import Lookups
from leaktrace.symbols.symbolizer import ProcessSymbolizer
from leaktrace.targets.access import require_access
from leaktrace.targets.command import StartedCommand
from leaktrace.targets.mappings import read_mappings
from leaktrace.targets.process import Process
from leaktrace.targets.stopped import why_stopped
from leaktrace.tracing.opening import closed_on_failure
from leaktrace.unwind.budget import TableBudget


@dataclass(frozen=True)
class _Closing:
    """What a tracer closes at the end, from the last field to the first. The order in which the
    parts were opened does not matter."""

    keeper: ExitStack  # last, because it guards the command
    command: ExitStack
    process: ExitStack
    program: ExitStack
    streams: ExitStack
    lookups: ExitStack
    faults: ExitStack
    watch: ExitStack  # after the probes: it looks at what they left behind
    probes: ExitStack

    @classmethod
    def within(cls, stack: ExitStack) -> _Closing:
        return cls(**{field.name: stack.enter_context(ExitStack()) for field in fields(cls)})


@dataclass(frozen=True)
class _Target:
    """The process to trace, and the command where leaktrace has started it."""

    process: Process
    command: StartedCommand | None
    keeper: Keeper | None

    @property
    def pid(self) -> int:
        return self.process.pid


@dataclass(frozen=True)
class _Plans:
    """What was found out while the BPF program was compiled."""

    planner: Planner
    objects: list[ObjectPlan]
    pairs: PairPlanner | None
    of_pairs: list[ObjectPlan]
    symbolizer: ProcessSymbolizer
    tables: TableFollower | None


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
    budget, lookups = TableBudget(interrupted), Lookups(interrupted)
    with closed_on_failure() as stack:
        closing = _Closing.within(stack)
        closing.lookups.callback(lookups.close)
        target = _begin(options, closing)
        with Compilation(options, knobs or {}) as compilation:
            # If the program has to be compiled, that happens on another core meanwhile.
            plans = _plan(options, target, compilation, budget, lookups)
            program = compilation.finish()
            closing.program.callback(program.close)
            if compilation.cache_problem and options.report.verbose:
                notify(
                    f"the compiled program is not cached: {printable(compilation.cache_problem)}"
                )
        _fill_sampling(program, Sampling.from_filters(options.filters).mean_bytes)
        traced = _trace(options, target, program, plans, lookups=lookups, closing=closing)
        streams = _open_streams(program, closing)
        intake = Intake(streams.regions, traced)
        looks = Looks(program, traced, intake)
        return Tracer(
            options,
            program=program,
            traced=traced,
            looks=looks,
            streams=streams,
            keeper=target.keeper,
            resources=stack,
        )


def _begin(options: ProcessOptions, closing: _Closing) -> _Target:
    """Start the command, or find the process. Raises LeaktraceError."""
    command: StartedCommand | None = None
    if isinstance(options.target, CommandTarget):
        command = StartedCommand(options.target.argv)
        closing.command.callback(command.end)
        process = Process(command.pid)
        name = Path(command.path).name
    else:
        process = Process(options.target.pid)
        name = process.name
    closing.process.callback(process.close)
    pid = process.pid
    notify(f"attaching to pid {pid} ({name})…")
    if command is None:
        stopped = why_stopped(pid)
        if stopped:
            notify(f"pid {pid}: {stopped}")
        require_access(pid, to_memory=not options.faults)
    if options.probe_returns:
        notify("return probes kill a process that throws an exception through an allocator")
    keeper: Keeper | None = None
    # Page faults of a running process need no keeper. It starts on another core, long before it is
    # needed.
    if command is not None or not options.faults:
        keeper = Keeper()
        closing.keeper.callback(keeper.end)
    return _Target(process, command, keeper)


def _plan(
    options: ProcessOptions,
    target: _Target,
    compilation: Compilation,
    budget: TableBudget,
    lookups: Lookups,
) -> _Plans:
    """Choose the probes, and build the unwind tables. Raises LeaktraceError."""
    asked = options.report
    planner = Planner(options.objects, way=way_of(options), budget=budget)
    names = SymbolOptions(lines=asked.lines, inlines=asked.inlines)
    symbolizer = ProcessSymbolizer(target.pid, names, lookups)
    objects: list[ObjectPlan] = []
    pairs, of_pairs = _plan_pairs(options, target, budget)
    if not options.malloc:
        planner.survey = None
        if target.command is None:
            symbolizer.refresh()
    elif not options.faults:
        if target.command is not None:
            subject = target.command.path
            objects = planner.plan_command(target.command.path)
        else:
            subject = f"process {target.pid}"
            objects = planner.plan_process(target.pid)
            symbolizer.refresh()
        if not objects:
            raise nothing_to_hook(subject, options.objects, planner.passed_over)
    if not compilation.wants_tables:
        return _Plans(planner, objects, pairs, of_pairs, symbolizer, None)
    tables = TableFollower(target.pid, budget, symbolizer.object_behind)
    if target.command is not None:
        compilation.reserve(tables.plan_files(objects_of_program(target.command.path)))
    else:
        compilation.reserve(tables.plan(symbolizer.views.now.mappings))
    return _Plans(planner, objects, pairs, of_pairs, symbolizer, tables)


def _plan_pairs(
    options: ProcessOptions, target: _Target, budget: TableBudget
) -> tuple[PairPlanner | None, list[ObjectPlan]]:
    """The probes on functions that the user named. Raises LeaktraceError."""
    if not options.pairs:
        return None, []
    way = way_of(options)
    if way is Way.SAFE_RETURNS:
        raise EnvironmentUnfitError(
            "--pair is not supported here: it needs an x86-64 machine and attach cookies "
            "(Linux 5.15)",
            "leave out --pair",
        )
    planner = PairPlanner(options.pairs, way=way, budget=budget)
    if target.command is not None:
        return planner, planner.plan_command(target.command.path)
    return planner, planner.plan_process(target.pid, is_first=True)


def _fill_sampling(program: Program, mean_bytes: int | None) -> None:
    """Write the tables of sampling by bytes."""
    if mean_bytes is not None and program.sample_gaps and program.sample_weights:
        program.sample_gaps.write_mapped(0, gap_table(mean_bytes))
        program.sample_weights.write_mapped(0, weight_table())


def _trace(
    options: ProcessOptions,
    target: _Target,
    program: Program,
    plans: _Plans,
    *,
    lookups: Lookups,
    closing: _Closing,
) -> Traced:
    """Attach the probes. Raises LeaktraceError when nothing can be hooked."""
    names = StackNames(program.stacks, plans.symbolizer, lookups)
    said = Notes()
    tables = _install_tables(options, program, plans.tables, said)
    if target.keeper is not None and target.command is not None:
        target.keeper.guard(target.command.pid)
    own = AllocatorsOwn(names.addresses_of)
    hooks = _hooks(options, target, program, plans, own=own, said=said, closing=closing)
    traced = Traced(
        process=target.process,
        command=target.command,
        symbolizer=plans.symbolizer,
        names=names,
        hooks=hooks,
        own=own,
        tables=tables,
        faults=(
            None
            if program.files is None
            else PageFaults(program.programs[FAULT_PROGRAM], program.files, target.pid)
        ),
        notes=said,
    )
    mappings = traced.mappings()
    own.follow(mappings)
    hooks.attach_first(plans.objects, mappings, is_started=traced.is_started)
    hooks.attach_pairs(plans.of_pairs, mappings, is_started=traced.is_started)
    if traced.is_started:
        hooks.attach_loader(mappings)
    if traced.faults is not None:
        closing.faults.callback(traced.faults.close)
        traced.faults.follow(read_mappings(target.pid))
        traced.faults.attach()
    return traced


def _install_tables(
    options: ProcessOptions, program: Program, tables: TableFollower | None, said: Notes
) -> TableFollower | None:
    """Give the walker its unwind tables; None where the loaded walker uses none."""
    if tables is not None and program.tables is not None:
        tables.install(program.tables)
    chosen = options.stack_walker is StackWalker.FP
    said.add(*notes.of_walker(program.walker, was_chosen=chosen))
    if options.report.verbose:
        notify(f"stacks are walked by {program.walker}")
    return None if program.tables is None else tables


def _hooks(
    options: ProcessOptions,
    target: _Target,
    program: Program,
    plans: _Plans,
    *,
    own: AllocatorsOwn,
    said: Notes,
    closing: _Closing,
) -> Hooks:
    """Attach the probes that follow exec, fork and exit; those on functions come later."""
    attachments = Attachments(program, target.pid, target.keeper)
    closing.probes.callback(attachments.close)
    attachments.attach_lifecycle()
    watch: ProbeWatch | None = None
    if target.keeper is not None:
        watch = ProbeWatch(target.pid, target.keeper, program.links)
        closing.watch.callback(_end_watch, watch, target.pid)
    is_command = target.command is not None
    return Hooks(
        process=target.process,
        options=HookOptions(
            links=program.links,
            may_have_leftovers=not is_command,
            probe_returns=options.probe_returns,
            hooks_loader=OBJECTS_PROGRAM in program.programs,
            verbose=options.report.verbose,
            malloc=options.malloc,
        ),
        planner=plans.planner,
        pairs=plans.pairs,
        attachments=attachments,
        keeper=target.keeper,
        watch=watch,
        # Nothing predates the image that a command executes first.
        completeness=Completeness(
            program, target.pid, plans.planner.survey, 1 if is_command else None
        ),
        own=own,
        notes=said,
    )


def _end_watch(watch: ProbeWatch, pid: int) -> None:
    with contextlib.suppress(KeeperGoneError):  # reported elsewhere
        watch.end(mappings_now(pid))
    watch.close()


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
