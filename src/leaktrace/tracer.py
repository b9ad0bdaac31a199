"""A target under trace: compiled, planned, attached; its events; its stacks with names.

Everything that lives as long as the probes do is held here, and `close()` lets go of it in the
right order. What is asked of it is told in session.py.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Sequence
from collections.abc import Mapping as MappingOf
from pathlib import Path

import numpy as np

from leaktrace import abi
from leaktrace.analysis.builder import STACK_ENDS
from leaktrace.analysis.sampling import Sampling, gap_table, weight_table
from leaktrace.analysis.trim import readable
from leaktrace.cost import CostMeter
from leaktrace.descriptors import POOL
from leaktrace.errors import LeaktraceError, TargetError
from leaktrace.event_stream import EventStream
from leaktrace.faults import PageFaults
from leaktrace.keeper import Keeper, KeeperGoneError
from leaktrace.leftovers import remove_leftovers
from leaktrace.links import return_probes_make_system_calls
from leaktrace.model import Event, EventKind, Stack, StackEnd, TargetInfo
from leaktrace.notices import tell
from leaktrace.options import CommandTarget, Options, ProcessTarget, StackWalker
from leaktrace.probes.allocators import FUNCTION_NAMES, REQUIRED
from leaktrace.probes.attach import Attachments, HookedObject, ObjectRefusedError
from leaktrace.probes.passed_over import notes_of, nothing_to_hook
from leaktrace.probes.plan import ChosenNotMappedError, ObjectPlan, Planner
from leaktrace.probes.program_files import objects_of_program
from leaktrace.probes.verify import verified, without_return_probes
from leaktrace.probes.watch import ProbeWatch
from leaktrace.program import Compilation, Program, Walker, way_of
from leaktrace.regions import RegionLedger
from leaktrace.snapshot import Snapshot, take_snapshot
from leaktrace.symbols.names import printable
from leaktrace.symbols.options import SymbolOptions
from leaktrace.symbols.process import ProcessSymbolizer
from leaktrace.target.access import require_access
from leaktrace.target.command import StartedCommand
from leaktrace.target.mappings import Mapping, read_mappings
from leaktrace.target.process import Process
from leaktrace.unwind.follow import TableFollower
from leaktrace.unwind.install import Capacity

_INITIAL_PID_NAMESPACE = 0xEFFFFFFC  # PROC_PID_INIT_INO, include/linux/proc_ns.h
_AFTER_EXEC_S = (0.002, 0.01, 0.05, 0.2, 1.0)  # when to look for the libraries of a new image

_EVENT_KINDS = {
    abi.EventCode.ALLOCATE: EventKind.ALLOCATE,
    abi.EventCode.RELEASE: EventKind.RELEASE,
    abi.EventCode.FAIL: EventKind.FAIL,
}


class Tracer:
    """Traces one process from `arm()` to `close()`."""

    def __init__(self, options: Options, knobs: MappingOf[str, int] | None = None) -> None:
        """Compile, start or find the target, and put the probes on; nothing is recorded yet.

        `knobs` of bpf/config.h that no option sets are for tests.

        Raises LeaktraceError; whatever was begun is undone then.
        """
        self._options = options
        self._sampling = Sampling.from_filters(options.filters)
        self._planner = Planner(options.objects, way=way_of(options))
        self._regions = RegionLedger()
        self._stacks: dict[int, Stack] = {}
        self._look_again_s: list[float] = []
        self._notes: list[str] = []
        self._probe_notes: tuple[str, ...] = ()
        self._children_noted = False
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
            if self.command is None:
                require_access(pid, to_memory=not options.faults)
            if options.probe_returns:
                tell("return probes: a process that throws through an allocator dies of them")
            self._start_keeper()
            compilation = Compilation(options, knobs or {})
            # If it has to be compiled, that happens on another core while we search for symbols.
            asked = options.report
            self._symbolizer = ProcessSymbolizer(
                pid, SymbolOptions(lines=asked.lines, inlines=asked.inlines)
            )
            plans = [] if options.faults else self._first_plans(pid)
            if compilation.wants_tables:
                compilation.reserve(self._plan_tables(pid))
            self._program = compilation.finish()
            if compilation.cache_problem and asked.verbose:
                tell(f"the compiled program is not kept: {printable(compilation.cache_problem)}")
            compilation = None
            self._install_tables()
            self._install_sampling()
            if self._keeper is not None and self.command is not None:
                self._keeper.guard(self.command.pid)
            self._attachments = Attachments(self._program, pid, self._keeper)
            self._attachments.attach_lifecycle()
            if self._keeper is not None:
                self._watch = ProbeWatch(pid, self._keeper, self._program.links)
            mappings = self._mappings()
            self._remove_leftovers(plans, mappings)
            self._attach_first(plans, mappings)
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
        self._follower = TableFollower(pid)
        if self.command is not None:
            return self._follower.plan_files(objects_of_program(self.command.path))
        return self._follower.plan(read_mappings(pid))

    def _install_tables(self) -> None:
        program = self._loaded
        if program.tables is None:
            self._follower = None
            if self._options.stack_walker is not StackWalker.FP:
                self._notes.append(
                    "stacks are walked by frame pointers, which most binaries lack: "
                    "this kernel refused the walker by unwind tables"
                )
        elif self._follower is not None:
            self._follower.install(program.tables)
            if program.walker is Walker.SINGLE:
                self._notes.append("stacks are cut at 64 frames: this kernel refused tail calls")
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
        except ObjectRefusedError as error:
            self._notes.append(
                f"{plan.path} is left out: {error.message}. What it hands out is not in these "
                "figures"
            )
            return error
        finally:
            plan.elf.close()
        if hooked.refused:
            self._notes.append(
                f"not hooked in {hooked.name}, because the kernel can't probe them: "
                + ", ".join(hooked.refused)
            )
        if hooked.left_out:
            has_malloc = all(one.hook.symbol not in REQUIRED for one in hooked.left_out)
            self._notes.append(
                f"not hooked in {hooked.name}, because it could harm the process: "
                + "; ".join(f"{one.hook.symbol} ({one.reason})" for one in hooked.left_out)
                + ". What is allocated there is not in these figures"
                + (", unless it calls malloc" if has_malloc else "")
            )
        if self._options.report.verbose:
            tell(_describe(hooked))
        return None

    def _open_streams(self) -> None:
        program = self._loaded
        self._region_stream = EventStream(
            program.region_events_fd, is_ring=program.ring_buffer, pages=64
        )
        if program.trace_events_fd is not None:
            self._trace_stream = EventStream(
                program.trace_events_fd, is_ring=program.ring_buffer, pages=program.event_pages
            )

    def arm(self) -> None:
        """Record from now on, and let a held command go.

        Raises TargetError when the command can't be executed.
        """
        session = np.zeros(1, dtype=abi.SESSION)
        session["armed"] = 1
        # Seen from elsewhere pids differ; there the kernel side takes the tgid of the first hit.
        if Path("/proc/self/ns/pid").stat().st_ino == _INITIAL_PID_NAMESPACE:
            session["tgid"] = self._target.pid
        self._loaded.session.update(0, session)
        if self.command is not None:
            self.command.release()
            self._target.read_name()

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

    def pump(self) -> tuple[list[Event], bool]:
        """Take in what the kernel side sent. Returns traced calls, and whether an exec was seen."""
        assert self._region_stream is not None
        executed = False
        for event in _decode(self._region_stream.drain()):
            # The exec's own event tells it first, or any later one, should that be lost.
            if int(event["generation"]) > self._generation:
                executed = True
                self._on_exec(int(event["generation"]))
            match int(event["kind"]):
                case abi.EventCode.EXEC:
                    if event["address"] != event["tid"]:
                        self._attach_anew()
                case abi.EventCode.STARTED:
                    self._look_for_objects()
                    # One that has executed something else since waits for that one's event.
                    if int(event["generation"]) == self._current_generation():
                        self._started = self._generation
                        if self.command is not None and self._generation:
                            self.command.proceed()
                case abi.EventCode.UNKNOWN_CODE:
                    self._look_for_objects()
                case abi.EventCode.FORKED:
                    if self._watch is not None:
                        self._watch.forked()
                case _ if int(event["generation"]) == self._generation:
                    self._regions.apply(event)
        if self._current_generation() > self._generation:
            executed = True
            self._on_exec(self._current_generation())
        events: list[Event] = []
        if self._trace_stream is not None:
            # What a command does before its exec is our doing.
            first = 0 if self.command is None else 1
            decoded = _decode(self._trace_stream.drain())
            events = [self._name_event(e) for e in decoded if int(e["generation"]) >= first]
        return events, executed

    def _current_generation(self) -> int:
        """How often the target has executed a program by now."""
        session = self._loaded.session.lookup(0)
        assert session is not None  # an array has all its entries
        return int(session["generation"])

    def _on_exec(self, generation: int) -> None:
        self._generation = generation
        self._regions.clear()
        self._stacks.clear()
        self._symbolizer.forget()
        name = self._target.read_name()
        if generation > self._first_generation:
            self._notes.append(
                f"it has executed another program ({printable(name)}): what came before is gone"
            )
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
        self._look_for_objects()
        self._notes.append(
            "another thread than the first executed a program: "
            "what it allocated in its first moments was missed"
        )

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
                self._watch.free_children(self._target.children(), self._mappings())

    def _mappings(self) -> tuple[Mapping, ...]:
        """Those of now; none when the process has ended."""
        with contextlib.suppress(TargetError):
            return read_mappings(self._target.pid)
        return ()

    def _look_at_probes(self) -> None:
        """What has happened to the probes since the last report."""
        if self._watch is not None and self._target.is_alive():
            mappings = self._mappings()
            with contextlib.suppress(KeeperGoneError):  # told at the end
                found = (*self._watch.look(mappings), *self._watch.unseen(mappings))
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
        if not self._target.is_alive():
            return
        try:
            mappings = read_mappings(self._target.pid)
            self._mapped = {m.path for m in mappings if m.is_executable}
            if self._follower is not None:
                self._follower.follow(mappings, self._generation)
            self._symbolizer.refresh(mappings)
            if self._faults is not None:
                self._faults.follow(mappings)
                return
            for plan in self._planner.plan_process(self._target.pid, mappings):
                if self._attach(plan, mappings) is None:
                    self._notes.append(
                        f"{plan.name} was hooked when it was first seen: "
                        "what it handed out before is unknown"
                    )
        except TargetError as error:
            if self._target.is_alive():
                self._notes.append(error.message)
        except ChosenNotMappedError:
            return
        except LeaktraceError as error:
            self._notes.append(f"an object loaded later is not traced: {error.message}")

    def snapshot(self) -> Snapshot:
        """Read the maps, with everything that happened until now taken into account."""
        self._look_for_objects()
        self._look_at_probes()
        self._proceed_if_forgotten()
        self._symbolizer.expect_new_names()
        return take_snapshot(
            self._loaded,
            self._regions,
            combined_only=self._options.report.combined_only or self._options.faults,
            count_unit=self._sampling.count_unit,
        )

    def info(self) -> TargetInfo:
        """The target as reports name it."""
        self._note_children()
        fault_notes = () if self._faults is None else self._faults.notes()
        stopped = ("a signal has stopped it (SIGSTOP)",) if self._target.is_stopped() else ()
        return TargetInfo(
            pid=self._target.pid,
            command=self._target.read_name(),
            allocators=self._sources(),
            notes=tuple(
                dict.fromkeys(
                    (
                        *self._notes,
                        *notes_of(self._planner.passed_over),
                        *stopped,
                        *self._probe_notes,
                        *fault_notes,
                        *self._replacements(),
                        *filter(None, [POOL.note()]),
                        *self._verbose_notes(),
                    )
                )
            ),
        )

    def _note_children(self) -> None:
        """Children are not traced: say so as soon as there is one, or a report looks too good."""
        if self._children_noted:
            return
        children = self._target.children()
        if children:
            self._children_noted = True
            self._notes.append(
                f"it has child processes, which are not traced: see leaktrace -p {children[0]}"
            )

    def _sources(self) -> tuple[str, ...]:
        """Where events come from: after an exec only what the program has mapped."""
        assert self._attachments is not None
        if self._faults is not None:
            return ("page faults",)
        hooked = self._attachments.objects
        if self._generation and not self._look_again_s:
            hooked = [one for one in hooked if self._is_mapped(one.path)]
            if not hooked:
                self._notes.append(
                    "no object of the program that it executed defines malloc and free "
                    "(stripped, or Go?): try --faults"
                )
        return tuple(f"{one.name}: {len(one.functions)} functions" for one in hooked)

    def _is_mapped(self, path: str) -> bool:
        return bool(self._mapped & {path, os.path.realpath(path)})

    def _replacements(self) -> tuple[str, ...]:
        return () if self._follower is None else tuple(self._follower.replacements)

    def _verbose_notes(self) -> tuple[str, ...]:
        """Why frames lack lines or were found by frame pointer, object by object."""
        if not self._options.report.verbose:
            return ()
        failures = self._follower.failures if self._follower is not None else []
        unwinding = tuple(f"no unwind tables for {path}: {why}" for path, why in failures)
        return (*unwinding, *self._symbolizer.notes())

    # --- names -----------------------------------------------------------------------------

    def stack_of(self, stack_id: int) -> Stack:
        """The stack behind an id, with names; looked up once all of them are known."""
        known = self._stacks.get(stack_id)
        if known is None:
            known = self._read_stack(stack_id)
            if _is_settled(known):
                self._stacks[stack_id] = known
        return known

    def _read_stack(self, stack_id: int) -> Stack:
        stored = self._loaded.stacks.lookup(stack_id) if stack_id else None
        if stored is None:
            return Stack((), StackEnd.LOST)
        addresses = stored["pc"][: int(stored["frame_count"])].tolist()
        frames = self._symbolizer.symbolize_stack(addresses)
        return Stack(frames, STACK_ENDS[abi.StackEndCode(int(stored["end"]))])

    def _name_event(self, event: np.void) -> Event:
        size, stack_id = int(event["size"]), int(event["stack_id"])
        return Event(
            time_ns=int(event["time_ns"]),
            tid=int(event["tid"]),
            kind=_EVENT_KINDS[abi.EventCode(int(event["kind"]))],
            function=FUNCTION_NAMES.get(abi.Function(int(event["function"])), "?"),
            size_bytes=None if size == abi.UNKNOWN_SIZE else size,
            address=int(event["address"]),
            frames=(
                readable(self.stack_of(stack_id), self._options.report).frames if stack_id else ()
            ),
        )

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


def _decode(messages: list[bytes]) -> Iterable[np.void]:
    """Events in the order in which they happened, whichever CPU's buffer they came through."""
    if not messages:
        return ()
    size = abi.EVENT.itemsize
    events = np.frombuffer(b"".join(m[:size] for m in messages), dtype=abi.EVENT)
    return events[np.argsort(events["time_ns"], kind="stable")]


def _is_settled(stack: Stack) -> bool:
    """Whether a later look could tell no more: a stack may still be stored, and code made at run
    time be named."""
    return stack.end is not StackEnd.LOST and not any(
        frame.unknown is not None and frame.module_offset is None for frame in stack.frames
    )


def _describe(hooked: HookedObject) -> str:
    text = f"hooked in {hooked.path}: {', '.join(hooked.functions)}"
    if hooked.awaited:
        text += f"; by return probes: {', '.join(hooked.awaited)}"
    if hooked.missing:
        text += f"; not there or the same code: {', '.join(hooked.missing)}"
    return text
