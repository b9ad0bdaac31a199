"""Opens one process under trace: plans its probes, builds its unwind tables, and attaches.

The processes that are traced from the start are planned while the BPF program is compiled. A child
that is followed is planned and attached at once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

from leaktrace.errors import EnvironmentUnfitError
from leaktrace.notices import notify
from leaktrace.options import ProcessOptions, StackWalker, SymbolOptions
from leaktrace.process import notes
from leaktrace.process.allocator_mappings import AllocatorsOwn
from leaktrace.process.attach.attachments import Attachments, StoredPoints
from leaktrace.process.attach.keeper import Keeper, KeeperGoneError
from leaktrace.process.attach.watch import ProbeWatch
from leaktrace.process.completeness import Completeness
from leaktrace.process.event_intake import EventDispatch
from leaktrace.process.faults import PageFaults
from leaktrace.process.hooks import HookOptions, Hooks
from leaktrace.process.knobs import way_of
from leaktrace.process.looks import Looks
from leaktrace.process.member import Member
from leaktrace.process.notes import Notes
from leaktrace.process.probes.allocators import (
    EXIT_PROGRAM,
    OBJECTS_PROGRAM,
    START_PROGRAM,
)
from leaktrace.process.probes.object_plan import ObjectPlan, Way
from leaktrace.process.probes.pair_planner import PairPlanner
from leaktrace.process.probes.passed_over import nothing_to_hook
from leaktrace.process.probes.planner import ExaminedFiles, Planner
from leaktrace.process.probes.program_ends import StopPlanner, plan_starts
from leaktrace.process.probes.program_files import objects_of_program
from leaktrace.process.program import Compilation, Program
from leaktrace.process.region_account import RegionAccount
from leaktrace.process.region_pages import KnownPages
from leaktrace.process.slot import Slot
from leaktrace.process.stack_names import StackNames
from leaktrace.process.table_follower import TableFollower
from leaktrace.process.traced import Traced, mappings_now
from leaktrace.symbols.lookups import Lookups
from leaktrace.symbols.symbolizer import ProcessSymbolizer
from leaktrace.targets.command import StartedCommand
from leaktrace.targets.mappings import read_mappings
from leaktrace.targets.memory_files import memory_devices
from leaktrace.targets.open_files import OpenFiles
from leaktrace.targets.process import Process
from leaktrace.tracing.opening import closed_on_failure
from leaktrace.unwind.budget import TableBudget
from leaktrace.unwind.placed import PlacedTables


@dataclass(frozen=True)
class Target:
    """A process to trace."""

    process: Process
    command: StartedCommand | None = None  # where leaktrace has started it
    parent: Member | None = None  # whose child it is, if it is followed; an ancestor will do
    parent_pid: int | None = None
    is_only: bool = True  # that the user named

    @property
    def pid(self) -> int:
        return self.process.pid


@dataclass(frozen=True)
class Plans:
    """What was found out about a process before its probes are attached."""

    target: Target
    planner: Planner
    objects: list[ObjectPlan]
    pairs: PairPlanner | None
    of_pairs: list[ObjectPlan]
    symbolizer: ProcessSymbolizer
    tables: TableFollower | None
    starts: list[ObjectPlan] = field(default_factory=list)  # of a command: where it starts


@dataclass(frozen=True)
class Planning:
    """Plans processes."""

    options: ProcessOptions
    budget: TableBudget
    lookups: Lookups
    placed: PlacedTables
    _examined: ExaminedFiles = field(default_factory=dict)

    def plan(self, target: Target, compilation: Compilation | None, *, with_tables: bool) -> Plans:
        """Choose the probes of a process, and build its unwind tables. `compilation`: makes room
        for them; None where the BPF program is loaded already.

        Raises LeaktraceError.
        """
        options, command = self.options, target.command
        planner = Planner(
            options.objects, way=way_of(options), budget=self.budget, examined=self._examined
        )
        names = SymbolOptions(lines=options.report.lines, inlines=options.report.inlines)
        symbolizer = ProcessSymbolizer(target.pid, names, self.lookups)
        objects: list[ObjectPlan] = []
        pairs, of_pairs = self._plan_pairs(target)
        if not options.malloc:
            planner.survey = None
            if command is None:
                symbolizer.refresh()
        elif not options.faults:
            if command is not None:
                subject = command.path
                objects = planner.plan_command(command.path)
            else:
                subject = f"process {target.pid}"
                objects = planner.plan_process(target.pid)
                symbolizer.refresh()
            if not objects and target.parent is None:
                pid = target.pid if command is None else None
                error = nothing_to_hook(subject, options.objects, planner.passed_over, pid)
                if options.fds:
                    error.hint = "--no-malloc traces file descriptors alone, which needs no symbols"
                raise error
        starts: list[ObjectPlan] = []
        if command is not None and not options.faults:
            starts = list(plan_starts(command.path))
        if not with_tables:
            return Plans(target, planner, objects, pairs, of_pairs, symbolizer, None, starts)
        tables = TableFollower(target.pid, self.budget, symbolizer.object_behind, self.placed)
        if command is not None:
            assert compilation is not None  # a command is there from the start
            compilation.reserve(tables.plan_files(objects_of_program(command.path)))
        elif compilation is not None:
            compilation.reserve(tables.plan(symbolizer.views.now.mappings))
        else:
            tables.place(symbolizer.views.now.mappings)
        return Plans(target, planner, objects, pairs, of_pairs, symbolizer, tables, starts)

    def _plan_pairs(self, target: Target) -> tuple[PairPlanner | None, list[ObjectPlan]]:
        """The probes on functions that the user named. Raises LeaktraceError."""
        options = self.options
        if not options.pairs:
            return None, []
        way = way_of(options)
        if way is Way.SAFE_RETURNS:
            raise EnvironmentUnfitError(
                "--pair is not supported here: it needs an x86-64 machine and attach cookies "
                "(Linux 5.15)",
                "leave out --pair",
            )
        is_named = target.parent is None
        planner = PairPlanner(options.pairs, way=way, budget=self.budget, is_expected=is_named)
        if target.parent is not None:
            inherited = target.parent.traced.hooks.pairs
            assert inherited is not None  # it is the same for all processes
            planner.inherit(inherited)
        if target.command is not None:
            return planner, planner.plan_command(target.command.path)
        return planner, planner.plan_process(target.pid, is_first=is_named and target.is_only)

    def require_pairs(self, plans: Sequence[Plans]) -> None:
        """Raise LeaktraceError if none of several processes has the functions of a pair."""
        states = [plan.pairs.states for plan in plans if plan.pairs is not None]
        absent = [
            pair
            for number, pair in enumerate(self.options.pairs)
            if not any(of_process[number].is_found for of_process in states)
        ]
        if not absent:
            return
        planner = PairPlanner(absent, way=way_of(self.options), budget=self.budget)
        found = planner.plan_process(
            plans[0].target.pid,
            is_first=True,
            subject=f"the {len(plans)} processes" if len(plans) > 1 else "",
        )
        for plan in found:  # it was loaded meanwhile: the next look at the mappings finds it
            plan.elf.close()


@dataclass(frozen=True)
class Opening:
    """Attaches to planned processes."""

    options: ProcessOptions
    program: Program
    lookups: Lookups
    keeper: Keeper | None
    events: EventDispatch
    points: StoredPoints
    _said_walker: list[str] = field(default_factory=list)

    def open(self, plans: Plans, slot: Slot) -> Member:
        """Attach the probes of a process, which gets this slot.

        Raises LeaktraceError when nothing can be hooked; everything is closed then.
        """
        target = plans.target
        with closed_on_failure() as stack:
            for_process = stack.enter_context(ExitStack())
            for_process.callback(target.process.close)
            closing_watch = stack.enter_context(ExitStack())
            closing_probes = stack.enter_context(ExitStack())
            names = StackNames(self.program.stacks, plans.symbolizer, self.lookups)
            said = Notes()
            tables = self._install_tables(slot, plans.tables, said)
            if tables is not None:
                for_process.callback(tables.close)
            attachments = Attachments(slot, target.pid, self.keeper, self.points)
            closing_probes.callback(attachments.close)
            hooks = Hooks(
                process=target.process,
                options=self._hook_options(target),
                planner=plans.planner,
                pairs=plans.pairs,
                attachments=attachments,
                keeper=self.keeper,
                watch=self._watch(target, closing_watch),
                # Nothing predates the image that a command executes first.
                completeness=Completeness(
                    slot, target.pid, plans.planner.survey, None if target.command is None else 1
                ),
                own=AllocatorsOwn(
                    names.addresses_of, names.is_complete, plans.symbolizer.object_behind
                ),
                notes=said,
                stops=self._stops(target),
            )
            traced = Traced(
                slot=slot,
                process=target.process,
                command=target.command,
                symbolizer=plans.symbolizer,
                names=names,
                hooks=hooks,
                own=hooks.own,
                tables=tables,
                faults=(
                    None
                    if self.program.files is None
                    else PageFaults(slot, self.program.files, target.pid)
                ),
                notes=said,
                regions=RegionAccount(
                    partial(mappings_now, target.pid),
                    partial(memory_devices, target.pid),
                    self.options.filters.min_size_bytes,
                    self.options.filters.max_size_bytes,
                    pages=KnownPages(target.pid),
                ),
                files=OpenFiles(target.pid),
            )
            self._attach(traced, plans, stack)
            looks = Looks(traced, self.events)
            stack.callback(looks.close)
            return Member(traced, looks, target.parent_pid, attachments, stack)

    def _attach(self, traced: Traced, plans: Plans, stack: ExitStack) -> None:
        mappings = traced.mappings()
        traced.own.follow(mappings)
        traced.hooks.attach_first(plans.objects, mappings, is_started=traced.is_started)
        traced.hooks.attach_pairs(
            plans.of_pairs,
            mappings,
            is_started=traced.is_started,
            is_required=plans.target.parent is None,
        )
        for plan in plans.starts:
            traced.hooks.attach(plan, mappings, is_started=traced.is_started)
        if traced.is_started:
            traced.hooks.attach_loader(mappings)
        if traced.faults is not None:
            stack.callback(traced.faults.close)
            traced.faults.follow(read_mappings(traced.pid))
            traced.faults.attach()

    def _install_tables(
        self, slot: Slot, tables: TableFollower | None, said: Notes
    ) -> TableFollower | None:
        """Give the walker its unwind tables; None where the loaded walker uses none."""
        in_kernel = slot.tables()
        if tables is not None and in_kernel is not None:
            tables.install(in_kernel)
        walker = self.program.walker
        chosen = self.options.stack_walker is StackWalker.FP
        said.add(*notes.of_walker(walker, was_chosen=chosen))
        if self.options.report.verbose and not self._said_walker:
            notify(f"stacks are walked by {walker}")
            self._said_walker.append(str(walker))
        return None if in_kernel is None else tables

    def _stops(self, target: Target) -> StopPlanner | None:
        if target.command is None or START_PROGRAM not in self.program.programs:
            return None
        return StopPlanner(target.pid, at_exit=EXIT_PROGRAM in self.program.programs)

    def _watch(self, target: Target, closing: ExitStack) -> ProbeWatch | None:
        if self.keeper is None:
            return None
        watch = ProbeWatch(target.pid, self.keeper, self.program.links)
        closing.callback(_end_watch, watch, target)
        return watch

    def _hook_options(self, target: Target) -> HookOptions:
        return HookOptions(
            links=self.program.links,
            # A child has inherited the breakpoints of its parent, which somebody owns.
            may_have_leftovers=target.command is None and target.parent is None,
            probe_returns=self.options.probe_returns,
            hooks_loader=OBJECTS_PROGRAM in self.program.programs,
            verbose=self.options.report.verbose,
            malloc=self.options.malloc,
            knows_break=self.program.knows_break,
        )


def _end_watch(watch: ProbeWatch, target: Target) -> None:
    if target.process.is_alive():
        with contextlib.suppress(KeeperGoneError):  # reported elsewhere
            watch.end(mappings_now(target.pid))
    watch.close()
