"""What is hooked in one traced process: its allocators, and its dynamic loader."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from leaktrace.abi.process import Function
from leaktrace.bpf.links import UprobeLinks, return_probes_make_system_calls
from leaktrace.notices import notify
from leaktrace.process import notes
from leaktrace.process.allocator_mappings import AllocatorsOwn
from leaktrace.process.attach.attachments import Attachments, HookedObject, ObjectRefusedError
from leaktrace.process.attach.keeper import Keeper, KeeperGoneError
from leaktrace.process.attach.leftovers import remove_leftovers
from leaktrace.process.attach.patched_code import verified, without_return_probes
from leaktrace.process.attach.watch import ProbeWatch
from leaktrace.process.completeness import Completeness
from leaktrace.process.notes import Notes
from leaktrace.process.probes.loader_probes import plan_loader
from leaktrace.process.probes.object_plan import ObjectPlan
from leaktrace.process.probes.pair_planner import PairPlanner
from leaktrace.process.probes.planner import Planner
from leaktrace.process.probes.program_ends import StopPlanner
from leaktrace.targets.loader import LoaderInterface, loader_interface
from leaktrace.targets.mappings import Mapping
from leaktrace.targets.process import Process


@dataclass(frozen=True)
class HookOptions:
    """How the process is hooked."""

    links: UprobeLinks
    may_have_leftovers: bool  # of a killed tracer; a command that leaktrace starts has none
    probe_returns: bool  # return probes were asked for
    hooks_loader: bool  # the walker has to know when objects are loaded
    verbose: bool
    malloc: bool = True  # False: only the functions of `Hooks.pairs`
    knows_break: bool = True  # the kernel side can see where the program break is


@dataclass
class Hooks:
    """The probes on functions of one process."""

    process: Process
    options: HookOptions
    planner: Planner
    attachments: Attachments
    keeper: Keeper | None  # None where no function is hooked
    watch: ProbeWatch | None  # the same
    completeness: Completeness
    own: AllocatorsOwn
    notes: Notes
    pairs: PairPlanner | None = None  # of --pair
    stops: StopPlanner | None = None  # of a command
    loader: LoaderInterface | None = None  # of the image that runs now
    saw_all: bool = True  # False: an allocator was hooked when it may have allocated already
    _loader_files: set[tuple[str, int] | None] = field(default_factory=set)  # with a probe

    @property
    def objects(self) -> list[HookedObject]:
        """Every allocator that was hooked since the start or the last `detach_objects`."""
        return self.attachments.objects

    @property
    def is_loader_hooked(self) -> bool:
        """Whether every change of the dynamic loader is noticed when it happens."""
        return self.loader is not None and bool(self._loader_files)

    # --- attaching -------------------------------------------------------------------------

    def attach_first(
        self, plans: Sequence[ObjectPlan], mappings: Sequence[Mapping], *, is_started: bool
    ) -> None:
        """Hook a process that is about to be traced. `is_started`: it runs its program already, and
        is not a command that leaktrace still holds before its exec.

        Raises LeaktraceError when nothing can be hooked.
        """
        self._remove_leftovers(plans, mappings)
        refused = [
            error
            for plan in plans
            if (error := self.attach(plan, mappings, is_started=is_started)) is not None
        ]
        if plans and len(refused) == len(plans):
            raise refused[0]

    def attach_pairs(
        self,
        plans: Sequence[ObjectPlan],
        mappings: Sequence[Mapping],
        *,
        is_started: bool,
        is_required: bool,
    ) -> None:
        """Hook the functions that the user named. Raises LeaktraceError if one that `is_required`
        can't be hooked; others are noted."""
        self._remove_leftovers(plans, mappings)
        for plan in plans:
            error = self.attach(plan, mappings, is_started=is_started)
            if error is not None and is_required:
                raise error

    def attach_new(self, mappings: tuple[Mapping, ...], *, is_started: bool, is_late: bool) -> None:
        """Hook the allocators that were mapped since the last look. `is_late`: they may have
        allocated already. Raises LeaktraceError."""
        pid = self.process.pid
        plans = self.planner.plan_process(pid, mappings) if self.options.malloc else []
        if self.pairs is not None:
            plans += self.pairs.plan_process(pid, mappings)
        for plan in plans:
            if self.attach(plan, mappings, is_started=is_started) is None and is_late:
                self.notes.add(notes.of_late_object(plan.name))
                self.saw_all = False

    def attach(
        self, plan: ObjectPlan, mappings: Sequence[Mapping], *, is_started: bool
    ) -> ObjectRefusedError | None:
        """Hook one object. Returns the error if the object has to be left out, which is also noted.

        Raises LeaktraceError when the process has ended or can't be traced.
        """
        if not self.options.knows_break and Function.BRK in plan.functions:
            plan = plan.without(Function.BRK)
            self.notes.add(notes.BREAK_UNKNOWN)
        if is_started:
            plan = verified(plan, self.process.pid, mappings)
        if (
            not self.options.probe_returns
            and return_probes_make_system_calls()
            and self.process.is_filtered()
        ):
            plan = without_return_probes(plan, "a seccomp filter could end it for a return probe")
        try:
            hooked = self.attachments.attach(plan)
            if self.watch is not None:
                self.watch.add(plan, hooked.offsets)
            if plan.is_allocator:
                self.own.add(plan)
                self.completeness.hooked(plan)
        except ObjectRefusedError as error:
            if plan.is_allocator or plan.is_of_pairs:
                self.notes.add(notes.of_refused(plan.path, error.message))
            return error
        finally:
            plan.elf.close()
        if plan.is_allocator or plan.is_of_pairs:
            self.notes.add(*notes.of_hooked(hooked))
        if self.options.verbose:
            notify(_describe(hooked))
        return None

    def attach_loader(self, mappings: Sequence[Mapping]) -> None:
        """Hook the dynamic loader of a process that runs its program, so that the kernel side
        notices when objects are loaded and unloaded. Raises LeaktraceError."""
        if self.watch is None or not self.options.hooks_loader or self.loader is not None:
            return
        self.loader = loader_interface(self.process.pid)
        plan = self.loader and plan_loader(self.loader, self.process.pid, mappings)
        if plan is None:
            return
        if plan.identity in self._loader_files:
            plan.elf.close()
            return
        self._remove_leftovers([plan], mappings)
        if self.attach(plan, mappings, is_started=True) is None:
            self._loader_files.add(plan.identity)

    def attach_stops(self, mappings: Sequence[Mapping]) -> None:
        """Hook the places where a command starts and exits, so that it is stopped there. Raises
        LeaktraceError."""
        for plan in [] if self.stops is None else self.stops.plan(mappings):
            self.attach(plan, mappings, is_started=True)

    def _remove_leftovers(self, plans: Sequence[ObjectPlan], mappings: Sequence[Mapping]) -> None:
        if self.keeper is not None and self.options.may_have_leftovers:
            pid, verbose = self.process.pid, self.options.verbose
            remove_leftovers(pid, plans, mappings, self.keeper, self.options.links, verbose=verbose)

    # --- while it runs ---------------------------------------------------------------------

    def detach_objects(self) -> None:
        """Detach the probes from all functions, and plan every object again.

        Needed when a thread other than the first executes a program: it takes the process's id
        over, and the probes, which the kernel bound to the first thread, no longer see it.
        """
        with contextlib.suppress(KeeperGoneError):  # reported at the end
            self.attachments.detach_objects()
        if self.watch is not None:
            self.watch.close()
        self.planner.forget()
        if self.pairs is not None:
            self.pairs.forget()
        if self.stops is not None:
            self.stops.forget()
        self.loader = None
        self._loader_files.clear()

    def stepped_share(self) -> float:
        """The share of single-stepped probes among those that are hit most: malloc's and free's."""
        most_hit = [name in one.stepped for one in self.objects for name in one.required]
        return sum(most_hit) / len(most_hit) if most_hit else 0.0

    def repair(self, mappings: Sequence[Mapping]) -> tuple[str, ...] | None:
        """Repair the probes that something has overwritten. Returns what a report has to say about
        the probes; None when that is unknown."""
        if self.watch is None:
            return None
        with contextlib.suppress(KeeperGoneError):  # reported at the end
            return (*self.watch.restore(mappings), *self.watch.unseen(mappings))
        return None

    def forked(self) -> None:
        """The process has a new thread or child."""
        if self.watch is not None:
            self.watch.forked()

    def children_due_s(self) -> float | None:
        """When `repair_children` is due, on the clock of time.monotonic(); None: it isn't."""
        return None if self.watch is None else self.watch.due_s()

    def repair_children(self, mappings: Sequence[Mapping], traced: Collection[int]) -> None:
        """Remove the probes' breakpoints from children that were forked with them, except from
        those that are traced themselves."""
        if self.watch is not None:
            with contextlib.suppress(KeeperGoneError):  # reported at the end
                children = [pid for pid in self.process.children() if pid not in traced]
                self.watch.repair_children(children, mappings)


def _describe(hooked: HookedObject) -> str:
    functions = dict.fromkeys(hooked.functions)  # several probes may be for one function
    text = f"hooked in {hooked.path}: {', '.join(functions)}"
    if hooked.awaited:
        text += f"; by return probes: {', '.join(hooked.awaited)}"
    if hooked.missing:
        text += f"; not defined, or the same code as another: {', '.join(hooked.missing)}"
    return text
