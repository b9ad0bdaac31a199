"""A target under trace: compiled, planned, attached; its events; its stacks with names.

Everything that lives as long as the probes do is held here, and `close()` lets go of it in the
right order. What is asked of it is told in session/run.py.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from collections.abc import Mapping as MappingOf
from functools import cache
from pathlib import Path

import numpy as np

from leaktrace.abi import process as abi
from leaktrace.analysis.same_sites import SameSites
from leaktrace.analysis.sampling import Sampling, gap_table, weight_table
from leaktrace.analysis.snapshot import Snapshot
from leaktrace.analysis.trim import readable
from leaktrace.bpf.events import EventStream
from leaktrace.bpf.links import return_probes_make_system_calls
from leaktrace.errors import LeaktraceError, TargetError
from leaktrace.model import Ending, Event, Remark, TargetInfo
from leaktrace.notices import tell
from leaktrace.options import CommandTarget, Options, ProcessTarget, StackWalker, SymbolOptions
from leaktrace.own.descriptors import POOL
from leaktrace.printable import printable
from leaktrace.process import notes
from leaktrace.process.allocators_own import AllocatorsOwn
from leaktrace.process.attach.attachments import Attachments, HookedObject, ObjectRefusedError
from leaktrace.process.attach.keeper import Keeper, KeeperGoneError
from leaktrace.process.attach.leftovers import remove_leftovers
from leaktrace.process.attach.patched_code import verified, without_return_probes
from leaktrace.process.attach.watch import ProbeWatch
from leaktrace.process.completeness import Completeness
from leaktrace.process.cost import CostMeter
from leaktrace.process.ending import ending_of
from leaktrace.process.faults import PageFaults
from leaktrace.process.follow import TableFollower
from leaktrace.process.notes import Notes
from leaktrace.process.probes.allocators import FUNCTION_NAMES, OBJECTS_PROGRAM, REQUIRED
from leaktrace.process.probes.loader import plan_loader
from leaktrace.process.probes.passed_over import notes_of, nothing_to_hook
from leaktrace.process.probes.plan import ObjectPlan
from leaktrace.process.probes.planner import ChosenNotMappedError, Planner
from leaktrace.process.probes.program_files import objects_of_program
from leaktrace.process.program import Compilation, Program, way_of
from leaktrace.process.regions import RegionLedger
from leaktrace.process.snapshot import take_snapshot
from leaktrace.process.stack_names import StackNames
from leaktrace.process.tables import Moment
from leaktrace.symbols.demangle import hurry_when
from leaktrace.symbols.lookups import Lookups
from leaktrace.symbols.process import ProcessSymbolizer
from leaktrace.targets.access import require_access
from leaktrace.targets.command import StartedCommand
from leaktrace.targets.loader import LoadedObject, LoaderInterface, loader_interface
from leaktrace.targets.mappings import Mapping, NoMappingsError, read_mappings
from leaktrace.targets.process import Process, is_running
from leaktrace.targets.stopped import why_stopped
from leaktrace.tracing.calls import TracedCalls, decode_with_messages, name_call, take_messages
from leaktrace.tracing.calls import decode as decode_calls
from leaktrace.unwind.budget import TableBudget
from leaktrace.unwind.layout import Capacity

_INITIAL_PID_NAMESPACE = 0xEFFFFFFC  # PROC_PID_INIT_INO, include/linux/proc_ns.h
_AFTER_EXEC_S = (0.002, 0.01, 0.05, 0.2, 1.0)  # when to look for the libraries of a new image

_AFTER_LOAD_S = 0.2  # the same of a library that was loaded before


class Tracer:
    """Traces one process from `arm()` to `close()`."""

    def __init__(
        self,
        options: Options,
        knobs: MappingOf[str, int] | None = None,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        """Compile, start or find the target, and put the probes on; nothing is recorded yet.

        `knobs` of bpf/shared/config.h that no option sets are for tests. `interrupted`: whether the
        run is to end, so that nothing is worth waiting for.

        Raises LeaktraceError; whatever was begun is undone then.
        """
        self._options = options
        self._sampling = Sampling.from_filters(options.filters)
        self._table_budget = TableBudget(interrupted)
        self._lookups = Lookups(interrupted)
        hurry_when(interrupted)
        self._planner = Planner(options.objects, way=way_of(options), budget=self._table_budget)
        self._regions = RegionLedger()
        self._own = AllocatorsOwn(self._addresses_of)
        self._look_again_s: list[float] = []
        self._notes = Notes()
        self._probe_notes: tuple[str, ...] = ()
        self._children_noted = False
        self._loader: LoaderInterface | None = None
        self._loaders: set[tuple[str, int] | None] = set()  # files whose function has a probe
        self._same = SameSites()
        self._executed = False  # since `pump` was last asked
        self._is_looking = False
        self._begun: int | None = None  # the generation that waits to be looked at
        self._started = 0  # the last image whose first call was seen
        self._mapped: set[str] = set()
        self._generation = 0
        # A command begins with an exec of its own.
        self._first_generation = int(isinstance(options.target, CommandTarget))
        self._follower: TableFollower | None = None
        self.command: StartedCommand | None = None
        self.process: Process | None = None
        self._program: Program | None = None
        self._keeper: Keeper | None = None
        self._attachments: Attachments | None = None
        self._watch: ProbeWatch | None = None
        self._completeness: Completeness | None = None
        self._faults: PageFaults | None = None
        self._region_stream: EventStream | None = None
        self._trace_stream: EventStream | None = None
        compilation: Compilation | None = None
        try:
            if isinstance(options.target, CommandTarget):
                self.command = StartedCommand(options.target.argv)
                pid = self.command.pid
            else:
                assert isinstance(options.target, ProcessTarget)
                pid = options.target.pid
            self.process = Process(pid)
            name = self.process.name if self.command is None else Path(self.command.path).name
            tell(f"attaching to pid {pid} ({name})…")
            if self.command is None and (stopped := why_stopped(pid)):
                tell(f"pid {pid}: {stopped}")
            if self.command is None:
                require_access(pid, to_memory=not options.faults)
            if options.probe_returns:
                tell("return probes: a process that throws through an allocator dies of them")
            self._start_keeper()
            compilation = Compilation(options, knobs or {})
            # If it has to be compiled, that happens on another core while we search for symbols.
            asked = options.report
            options_of_symbols = SymbolOptions(lines=asked.lines, inlines=asked.inlines)
            self._symbolizer = ProcessSymbolizer(pid, options_of_symbols, self._lookups)
            plans = [] if options.faults else self._first_plans(pid)
            if compilation.wants_tables:
                compilation.reserve(self._plan_tables(pid))
            self._program = compilation.finish()
            if compilation.cache_problem and asked.verbose:
                tell(f"the compiled program is not kept: {printable(compilation.cache_problem)}")
            compilation = None
            self.names = StackNames(self._program.stacks, self._symbolizer, self._lookups)
            self._install_tables()
            self._install_sampling()
            if self._keeper is not None and self.command is not None:
                self._keeper.guard(self.command.pid)
            self._attachments = Attachments(self._program, pid, self._keeper)
            self._attachments.attach_lifecycle()
            if self._keeper is not None:
                self._watch = ProbeWatch(pid, self._keeper, self._program.links)
            self._completeness = Completeness(
                self._program,
                pid,
                self._planner.survey,
                self._first_generation if self.command is not None else None,
            )
            mappings = self._mappings()
            self._own.follow(mappings)
            self._remove_leftovers(plans, mappings)
            self._attach_first(plans, mappings)
            self._follow_loader(mappings)
            if options.faults:
                self._faults = PageFaults(self._program, pid)
                self._faults.follow(read_mappings(pid))
                self._faults.attach()
            self._open_streams()
        except BaseException:
            if compilation is not None:
                compilation.abandon()
            self.close()
            raise

    @property
    def _loaded(self) -> Program:
        assert self._program is not None
        return self._program

    @property
    def _target(self) -> Process:
        assert self.process is not None
        return self.process

    # --- setting up ------------------------------------------------------------------------

    def _start_keeper(self) -> None:
        """By the time it is asked for anything, it has started on another core. Page faults of a
        process that runs already need none."""
        if self.command is not None or not self._options.faults:
            self._keeper = Keeper()

    def _first_plans(self, pid: int) -> list[ObjectPlan]:
        if self.command is not None:
            plans = self._planner.plan_command(self.command.path)
            subject = self.command.path
        else:
            plans = self._planner.plan_process(pid)
            self._symbolizer.refresh()
            subject = f"process {pid}"
        if not plans:
            raise nothing_to_hook(subject, self._options.objects, self._planner.passed_over)
        return plans

    def _plan_tables(self, pid: int) -> Capacity:
        self._follower = TableFollower(pid, self._table_budget, self._symbolizer.object_behind)
        if self.command is not None:
            return self._follower.plan_files(objects_of_program(self.command.path))
        return self._follower.plan(self._symbolizer.views.now.mappings)

    def _install_tables(self) -> None:
        program = self._loaded
        if program.tables is None:
            self._follower = None
        elif self._follower is not None:
            self._follower.install(program.tables)
        chosen = self._options.stack_walker is StackWalker.FP
        self._notes.add(*notes.of_walker(program.walker, was_chosen=chosen))
        if self._options.report.verbose:
            tell(f"stacks are walked by {program.walker}")

    def _install_sampling(self) -> None:
        program, mean_bytes = self._loaded, self._sampling.mean_bytes
        if mean_bytes is not None and program.sample_gaps and program.sample_weights:
            program.sample_gaps.write_mapped(0, gap_table(mean_bytes))
            program.sample_weights.write_mapped(0, weight_table())

    def _remove_leftovers(self, plans: list[ObjectPlan], mappings: Sequence[Mapping]) -> None:
        """A command has just begun: nobody has left anything in it."""
        if self._keeper is not None and self.command is None:
            verbose = self._options.report.verbose
            pid, way = self._target.pid, self._loaded.links
            remove_leftovers(pid, plans, mappings, self._keeper, way, verbose=verbose)

    def _attach_first(self, plans: Sequence[ObjectPlan], mappings: Sequence[Mapping]) -> None:
        """Raises LeaktraceError when nothing can be hooked."""
        refused = [error for plan in plans if (error := self._attach(plan, mappings)) is not None]
        if plans and len(refused) == len(plans):
            raise refused[0]

    def _attach(self, plan: ObjectPlan, mappings: Sequence[Mapping]) -> ObjectRefusedError | None:
        """Returns why an object had to be left out, which is noted, too."""
        assert self._attachments is not None
        if self.command is None or self._generation:
            plan = verified(plan, self._target.pid, mappings)
        if (
            not self._options.probe_returns
            and return_probes_make_system_calls()
            and self._target.is_filtered()
        ):
            plan = without_return_probes(plan, "a seccomp filter could end it for a return probe")
        try:
            hooked = self._attachments.attach(plan)
            if self._watch is not None:
                self._watch.add(plan, hooked.offsets)
            if plan.is_allocator:
                self._own.add(plan)
                if self._completeness is not None:
                    self._completeness.hooked(plan)
        except ObjectRefusedError as error:
            if plan.is_allocator:
                self._notes.add(notes.of_refused(plan.path, error.message))
            return error
        finally:
            plan.elf.close()
        if plan.is_allocator:
            self._notes.add(*notes.of_hooked(hooked))
        if self._options.report.verbose:
            tell(_describe(hooked))
        return None

    def _follow_loader(self, mappings: Sequence[Mapping]) -> None:
        """Have the dynamic loader's changes noticed in the moment in which they happen."""
        is_own_child = self.command is not None and not self._generation
        if self._watch is None or is_own_child or OBJECTS_PROGRAM not in self._loaded.programs:
            return
        if self._loader is None:
            self._loader = loader_interface(self._target.pid)
            plan = self._loader and plan_loader(self._loader, self._target.pid, mappings)
            if plan is None:
                return
            if plan.identity in self._loaders:
                plan.elf.close()
                return
            self._remove_leftovers([plan], mappings)
            if self._attach(plan, mappings) is None:
                self._loaders.add(plan.identity)

    def _list_code(self, epoch: int) -> None:
        """Have stacks walked, and told apart, by the code as it is known now."""
        if self._follower is not None:
            view = self._symbolizer.views.now
            loader = self._loader.r_debug if self._loader is not None else 0
            moment = Moment(self._generation, epoch, view.number, loader)
            unlisted, present = self._symbolizer.loaded(), self._symbolizer.mappings
            self._follower.follow(view.mappings, moment, unlisted, present)

    def _open_streams(self) -> None:
        program = self._loaded
        self._region_stream = EventStream(
            program.region_events_fd, is_ring=program.ring_buffer, pages=program.region_pages
        )
        if program.trace_events_fd is not None:
            self._trace_stream = EventStream(
                program.trace_events_fd, is_ring=program.ring_buffer, pages=program.event_pages
            )

    def arm(self) -> None:
        """Record from now on, and let a held command go.

        Raises TargetError when the command can't be executed.
        """
        if self._completeness is not None:
            self._completeness.begin()
        session = np.zeros(1, dtype=abi.SESSION)
        session["armed"] = session["epoch"] = session["told"] = 1
        # Seen from elsewhere pids differ; there the kernel side takes the tgid of the first hit.
        if Path("/proc/self/ns/pid").stat().st_ino == _INITIAL_PID_NAMESPACE:
            session["tgid"] = self._target.pid
        self._loaded.session.update(0, session)
        if self.command is None:  # a change from now on is noticed, and one before this is seen
            self._look_for_objects()
        if self.command is not None:
            self.command.release()
            self._target.read_name()
        else:
            self._symbolizer.look_ahead()

    def throttle(self, rate: int) -> Sampling:
        """Record one allocation in `rate` from now on. Returns how records are to be weighed."""
        throttle = self._loaded.throttle
        assert throttle is not None  # there with a bound on the overhead
        # The bound comes first: what is recorded in full meanwhile is weighed too lightly for a
        # moment, and not, for good, too heavily.
        value = np.zeros(1, dtype=abi.THROTTLE)
        value["since_ns"] = np.iinfo(np.uint64).max
        value["rate"] = rate
        throttle.update(0, value)
        value["since_ns"] = since_ns = time.monotonic_ns()
        throttle.update(0, value)
        self._sampling = Sampling(rate, since_ns=since_ns)
        return self._sampling

    def cost_meter(self) -> CostMeter:
        """Measures what tracing costs, from now on."""
        asked = self._options
        wanted = asked.report.verbose or asked.max_overhead_percent is not None
        return CostMeter(self._loaded, self._target, self._stepped_share, measure_programs=wanted)

    def _stepped_share(self) -> float:
        """Of the probes that are hit most, malloc's and free's, those that are single-stepped."""
        hooked = self._attachments.objects if self._attachments is not None else []
        most_hit = [name in one.stepped for one in hooked for name in REQUIRED]
        return sum(most_hit) / len(most_hit) if most_hit else 0.0

    # --- while it runs ---------------------------------------------------------------------

    def streams(self) -> list[EventStream]:
        """What becomes readable when there is something to `pump`."""
        return [s for s in (self._region_stream, self._trace_stream) if s is not None]

    def keeper_fileno(self) -> int | None:
        """Readable when the probes are gone because their keeper is."""
        return None if self._keeper is None else self._keeper.fileno()

    def check_probes(self) -> None:
        """Raises KeeperGoneError when they are gone."""
        if self._keeper is not None and self._keeper.is_gone():
            raise self._keeper.gone()

    def pump(self, most_calls: int | None = None) -> tuple[TracedCalls, bool]:
        """Take in what the kernel side sent. Returns traced calls, at most so many where that is
        given, and whether an exec was seen."""
        assert self._region_stream is not None
        # Calls first: the names of their stacks depend on what was loaded before them.
        messages, left_out = take_messages(self._trace_stream, most_calls)
        self._take_in(self._region_stream.drain())
        if messages:
            self._note_lost_loads()
        if self._current_generation() > self._generation:
            self._on_exec(self._current_generation())
        executed, self._executed = self._executed, False
        return self._traced_calls(messages, left_out), executed

    def _traced_calls(self, messages: list[bytes], left_out: int) -> TracedCalls:
        calls = decode_calls(messages)
        # What a command does before its exec is our doing.
        first = 0 if self.command is None else 1
        is_told = calls["generation"] >= first
        is_told &= ~np.array([self._own.hides(call) for call in calls], dtype=bool)
        return TracedCalls(calls[is_told], self._name_event, left_out, self.names.prepare)

    def _take_in(self, messages: list[bytes]) -> None:
        """What the kernel side sent, in the order in which it happened."""
        mapped = cache(self._mappings)  # read once, if at all
        must_look = False
        for event, message in decode_with_messages(messages):
            # The exec's own event tells it first, or any later one, should that be lost.
            if int(event["generation"]) > self._generation:
                self._on_exec(int(event["generation"]))
                mapped = cache(self._mappings)
            match int(event["kind"]):
                case abi.EventCode.EXEC:
                    if event["address"] != event["tid"]:
                        self._attach_anew()
                case abi.EventCode.STARTED:
                    must_look = True
                    self._begun = int(event["generation"])
                case abi.EventCode.UNKNOWN_CODE:
                    must_look = True
                case abi.EventCode.LOADED if int(event["generation"]) == self._generation:
                    loaded = LoadedObject.from_message(message)
                    if self._symbolizer.see_loaded(loaded, mapped):
                        must_look = True
                    elif not self._look_again_s:  # the kernel side knows how to go on with it
                        self._look_again_s = [time.monotonic() + _AFTER_LOAD_S]
                case abi.EventCode.FORKED:
                    if self._watch is not None:
                        self._watch.forked()
                case _ if int(event["generation"]) == self._generation:
                    if self._own.takes(event):
                        self._regions.release(int(event["address"]), int(event["size"]))
                    else:
                        self._regions.apply(event)
        if must_look:
            self._look_for_objects()

    def _proceed_if_begun(self) -> None:
        """The first call of an image has waited until its objects were looked at. One that has
        executed something else since waits for that one's event."""
        if self._begun is None:
            return
        if self._begun == self._current_generation():
            self._started = self._generation
            if self.command is not None and self._generation:
                self.command.proceed()
        self._begun = None

    def _current_session(self) -> np.void:
        session = self._loaded.session.lookup(0)
        assert session is not None  # an array has all its entries
        return session

    def _current_generation(self) -> int:
        """How often the target has executed a program by now."""
        return int(self._current_session()["generation"])

    def _on_exec(self, generation: int) -> None:
        self._executed = True
        self._generation = generation
        self._regions.clear()
        self._own.forget()
        self._same = SameSites()
        self._loader = None
        self.names.forget()
        name = self._target.read_name()
        if generation > self._first_generation:
            self._notes.add(notes.of_exec(name))
        now = time.monotonic()
        self._look_again_s = [now + delay for delay in _AFTER_EXEC_S]

    def _attach_anew(self) -> None:
        """A thread that is not the first has executed a program. It takes the process's id over,
        and the kernel's probes, which were bound to the first thread, see it no more."""
        assert self._attachments is not None
        with contextlib.suppress(KeeperGoneError):  # told at the end
            self._attachments.detach_objects()
        if self._watch is not None:
            self._watch.close()
        self._planner.forget()
        self._loader = None
        self._loaders.clear()
        self._look_for_objects()
        self._notes.add(notes.THREAD_EXECUTED)

    def next_look_s(self) -> float | None:
        """When `look_again` is due, on the clock of time.monotonic(); None: it isn't."""
        children_s = None if self._watch is None else self._watch.due_s()
        due = [*self._look_again_s[:1], *([] if children_s is None else [children_s])]
        return min(due, default=None)

    def look_again(self) -> None:
        """After an exec the libraries are mapped one by one: see which allocators have come. After
        a fork, see what the children have of our probes."""
        now = time.monotonic()
        if self._look_again_s and self._look_again_s[0] <= now:
            self._look_again_s = [due for due in self._look_again_s if due > now]
            self._look_for_objects()
            self._proceed_if_forgotten()
        children_s = None if self._watch is None else self._watch.due_s()
        if self._watch is not None and children_s is not None and children_s <= now:
            with contextlib.suppress(KeeperGoneError):  # told at the end
                self._watch.repair_children(self._target.children(), self._mappings())

    def _mappings(self) -> tuple[Mapping, ...]:
        """Those of now; none when the process has ended, or they can't be read."""
        with contextlib.suppress(LeaktraceError):
            return read_mappings(self._target.pid)
        return ()

    def _look_at_probes(self) -> None:
        """What has happened to the probes since the last report."""
        if self._watch is not None and self._target.is_alive():
            mappings = self._mappings()
            with contextlib.suppress(KeeperGoneError):  # told at the end
                found = (*self._watch.restore(mappings), *self._watch.unseen(mappings))
                self._probe_notes = tuple(found)

    def _proceed_if_forgotten(self) -> None:
        """The command stops at its first call until we have looked. Should the event that tells us
        be lost, it would stay so."""
        forgotten = self._started < self._generation and self._target.is_stopped()
        if self.command is not None and forgotten:
            self._started = self._generation
            self._look_for_objects()
            self.command.proceed()

    def _look_for_objects(self) -> None:
        """Read the mappings again: unwind tables and names for new objects, probes on new
        allocators."""
        if self._is_looking:  # what was sent meanwhile asks for another look
            self._look_again_s.insert(0, time.monotonic())
            return
        if not self._target.is_alive():
            return
        self._is_looking = True
        try:
            self._look()
        except NoMappingsError:
            # A process that lives has some, but while it executes a program: that is looked for.
            if self._target.is_alive() and not is_running(self._target.pid):
                self._notes.add(notes.FIRST_THREAD_EXITED)
        except TargetError as error:
            if self._target.is_alive():
                self._notes.add(error.message)
        except ChosenNotMappedError:
            pass
        except LeaktraceError as error:
            self._notes.add(f"an object loaded later is not traced: {error.message}")
        finally:
            self._is_looking = False
        self._proceed_if_begun()

    def _look(self) -> None:
        self._note_lost_loads()
        told, mappings = self._mappings_and_epoch()
        self._mapped = {m.path for m in mappings if m.is_executable}
        self._own.follow(mappings)
        self._symbolizer.refresh(mappings)
        self._symbolizer.look_ahead()
        self._follow_loader(mappings)
        self._list_code(told)
        if self._faults is not None:
            self._faults.follow(mappings)
            return
        for plan in self._planner.plan_process(self._target.pid, mappings):
            if self._attach(plan, mappings) is None:
                self._notes.add(notes.of_late_object(plan.name))

    def _note_lost_loads(self) -> None:
        """Events of loads may have been lost: find out of which epochs (symbols/views.py)."""
        sent_up_to = int(self._current_session()["told"])
        lost = self._loaded.losses.lookup(int(abi.LossKind.REGION_EVENTS))
        assert lost is not None  # an array has all its entries
        epoch = int(self._current_session()["epoch"])
        self._symbolizer.views.gaps.update(sent_up_to, int(lost), epoch)

    def _mappings_and_epoch(self) -> tuple[int, tuple[Mapping, ...]]:
        """The last epoch of which everything was taken in, and mappings of that time or later.

        What was loaded until then is known before the list of mappings that lacks it, if it is
        gone: else nothing would tell it from what comes to its place.
        """
        while True:
            told = int(self._current_session()["told"])
            mappings = read_mappings(self._target.pid)
            image = (self._generation, self._begun)
            if self._region_stream is not None:
                self._take_in(self._region_stream.drain())
            if (self._generation, self._begun) == image:  # else they are of another program
                return told, mappings

    def snapshot(self) -> Snapshot:
        """Read the maps, with everything that happened until now taken into account."""
        self._look_for_objects()
        self._look_at_probes()
        self._proceed_if_forgotten()
        self._symbolizer.refresh_generated_names()
        snapshot = take_snapshot(
            self._loaded,
            self._regions,
            combined_only=self._options.report.combined_only or self._options.faults,
            count_unit=self._sampling.count_unit,
            is_left_out=self._own.is_own,
        )
        # The names of these stacks may depend on what was loaded before the last of them.
        if self._region_stream is not None:
            self._take_in(self._region_stream.drain())
        self._note_lost_loads()
        if self._symbolizer.views.has_changed:
            return self._same.merge(snapshot, self.names.locations_of)
        return snapshot

    def ending(self) -> Ending | None:
        """How the target has ended; None while it lives."""
        if self._target.is_alive():
            return None
        if self.command is not None:
            return self.command.ending()
        session = self._loaded.session.lookup(0)
        assert session is not None  # an array has all its entries
        return ending_of(int(session["wait_status"]))

    def info(self) -> TargetInfo:
        """The target as reports name it."""
        self._note_children()
        fault_notes = () if self._faults is None else self._faults.notes()
        stopped = why_stopped(self._target.pid) if self._target.is_alive() else ""
        hooked = self._hooked_now()
        return TargetInfo(
            pid=self._target.pid,
            command=self._target.read_name(),
            allocators=(
                ("page faults",)
                if self._faults is not None
                else tuple(f"{one.name}: {len(one.functions)} functions" for one in hooked)
            ),
            notes=tuple(
                dict.fromkeys(
                    (
                        *self._notes,
                        *notes_of(self._planner.passed_over),
                        *filter(None, (stopped, POOL.note())),
                        *(() if hooked or self._faults else (notes.NO_ALLOCATOR_AFTER_EXEC,)),
                        *self._probe_notes,
                        *fault_notes,
                        *self._view_notes(),
                        *(() if self._follower is None else self._follower.left_out()),
                        *self._verbose_notes(),
                    )
                )
            ),
            stopped=stopped,
        )

    def remarks(self) -> tuple[Remark, ...]:
        """What the figures leave out because nothing is hooked there."""
        if self._completeness is None or self._faults is not None:
            return ()
        is_first = self._generation <= self._first_generation
        return self._completeness.remarks(
            self._mappings(),
            self._generation,
            lambda path: is_first or self._is_mapped(path),
        )

    def _note_children(self) -> None:
        """Children are not traced: say so as soon as there is one, or a report looks too good."""
        if self._children_noted:
            return
        children = self._target.children()
        if children:
            self._children_noted = True
            self._notes.add(notes.of_children(children[0]))

    def _hooked_now(self) -> list[HookedObject]:
        """Where events come from: after an exec only what the program has mapped."""
        assert self._attachments is not None
        hooked = self._attachments.objects
        if self._generation and not self._look_again_s:
            return [one for one in hooked if self._is_mapped(one.path)]
        return hooked

    def _is_mapped(self, path: str) -> bool:
        return bool(self._mapped & {path, os.path.realpath(path)})

    def _view_notes(self) -> tuple[str, ...]:
        is_watched = self._loader is not None and self._loaders
        if len(self._symbolizer.views) == 1 or is_watched:
            return ()
        return (notes.LIBRARIES_REPLACED,)

    def _verbose_notes(self) -> tuple[str, ...]:
        """Why frames lack lines or were found by frame pointer, object by object."""
        if not self._options.report.verbose:
            return ()
        failures = self._follower.failures if self._follower is not None else []
        unwinding = tuple(f"no unwind tables for {one.path}: {one.reason}" for one in failures)
        return (*unwinding, *self._symbolizer.notes())

    # --- names -----------------------------------------------------------------------------

    def _addresses_of(self, stack_id: int) -> list[int] | None:
        return self.names.addresses_of(stack_id)

    def _name_event(self, event: np.void) -> Event:
        function = FUNCTION_NAMES.get(abi.Function(int(event["function"])), "?")
        stack_id = int(event["stack_id"])
        stack = readable(self.names.stack_of(stack_id), self._options.report) if stack_id else None
        return name_call(event, function, stack)

    # --- the end ---------------------------------------------------------------------------

    def detach(self) -> None:
        """Take the probes off; what was recorded stays readable."""
        if self._attachments is not None:
            self._attachments.close()
        if self._watch is not None:
            with contextlib.suppress(KeeperGoneError):  # told elsewhere
                self._watch.end(self._mappings())
            self._watch.close()
            self._watch = None
        if self._faults is not None:
            self._faults.close()

    def close(self) -> None:
        """Take the probes off, let go of every map, and end the command if we started one."""
        self.detach()
        self._lookups.close()
        for stream in self.streams():
            stream.close()
        self._region_stream = self._trace_stream = None
        if self._program is not None:
            self._program.close()
            self._program = None
        if self.process is not None:
            self.process.close()
        if self.command is not None:
            self.command.end()
        if self._keeper is not None:  # the last one: until then it guards the command
            self._keeper.end()
            self._keeper = None


def _describe(hooked: HookedObject) -> str:
    text = f"hooked in {hooked.path}: {', '.join(hooked.functions)}"
    if hooked.awaited:
        text += f"; by return probes: {', '.join(hooked.awaited)}"
    if hooked.missing:
        text += f"; not there or the same code: {', '.join(hooked.missing)}"
    return text
