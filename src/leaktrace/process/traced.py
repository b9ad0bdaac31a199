"""One traced process: what is known of it, and what changes while it runs."""

from __future__ import annotations

import contextlib
import os
import signal
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field, replace

from leaktrace.abi import process as abi
from leaktrace.analysis.same_sites import SameSites
from leaktrace.errors import LeaktraceError
from leaktrace.model import Ending, Remark
from leaktrace.process import notes
from leaktrace.process.allocator_mappings import AllocatorsOwn
from leaktrace.process.attach.attachments import HookedObject
from leaktrace.process.ending import ending_of
from leaktrace.process.faults import PageFaults
from leaktrace.process.hooks import Hooks
from leaktrace.process.kernel_tables import Moment
from leaktrace.process.look_times import LookTimes
from leaktrace.process.notes import Notes
from leaktrace.process.region_account import RegionAccount
from leaktrace.process.slot import Slot
from leaktrace.process.stack_names import StackNames
from leaktrace.process.table_follower import TableFollower
from leaktrace.symbols.symbolizer import ProcessSymbolizer
from leaktrace.targets.command import StartedCommand
from leaktrace.targets.mappings import Mapping, read_mappings
from leaktrace.targets.open_files import OpenFiles
from leaktrace.targets.process import Process


@dataclass
class Traced:
    """A process under trace. Its executable image changes with each exec: `generation` counts the
    execs, as the kernel side does (struct session, bpf/process/types.h)."""

    slot: Slot
    process: Process
    command: StartedCommand | None  # where leaktrace started the process
    symbolizer: ProcessSymbolizer
    names: StackNames
    hooks: Hooks
    own: AllocatorsOwn
    tables: TableFollower | None  # where stacks are walked by unwind tables
    faults: PageFaults | None  # in page fault mode
    notes: Notes
    regions: RegionAccount
    files: OpenFiles
    same_sites: defaultdict[int, SameSites] = field(
        default_factory=lambda: defaultdict(SameSites)  # by space, or kind of memory
    )
    look_times: LookTimes = field(default_factory=LookTimes)
    generation: int = 0
    # The generation that is stopped, as it was executed or at its first call, until a look.
    begun: int | None = None
    is_at_exec: bool = False  # that stop is the first of the two
    continued: int = 0  # the last stop after which it was continued (abi.stop_at)
    probe_notes: tuple[str, ...] = ()
    _mapped: set[str] = field(default_factory=set)  # paths with code, at the last look
    _has_executed: bool = False
    _seen_generation: int = 0  # whose mappings were read last
    children_note: str = ""

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def first_generation(self) -> int:
        """The generation of the program that the user wants traced: a command begins with
        leaktrace's own exec."""
        return 0 if self.command is None else 1

    @property
    def is_started(self) -> bool:
        """Whether the process runs its program. A command that leaktrace starts does so from its
        exec on; before, it is a copy of leaktrace."""
        return self.command is None or self.generation > 0

    @property
    def has_started(self) -> bool:
        """Whether its image was seen as it made its first call, with all its libraries."""
        return self.continued == abi.stop_at(self.generation, is_first_call=True)

    def mappings(self) -> tuple[Mapping, ...]:
        """The mappings of now; none when the process has ended, or they can't be read."""
        return mappings_now(self.pid)

    def is_mapped(self, path: str) -> bool:
        """Whether code of this file was mapped at the last look."""
        return bool(self._mapped & {path, os.path.realpath(path)})

    def has_mapped(self, path: str) -> bool:
        """The same for a file that was hooked. The objects of a command are planned before they are
        mapped, and those of a new program are not known at once."""
        return (
            self.generation <= self.first_generation
            or bool(self.look_times)
            or self.is_mapped(path)
        )

    def hooked(self) -> list[HookedObject]:
        """The objects that events come from: after an exec, only those that the new program has
        mapped, once its loader has mapped them all."""
        if self.generation and (not self.look_times or self.has_started):
            return [one for one in self.hooks.objects if self.is_mapped(one.path)]
        return self.hooks.objects

    def has_ended_unseen(self) -> bool:
        """Whether it has executed a program and ended before all of its mappings were read, and
        without a call that is hooked."""
        was_seen = self._seen_generation == self.generation and not self.look_times
        if was_seen or self.generation <= self.first_generation or self.process.is_alive():
            return False
        return int(self.slot.session_now()["announced"]) != self.generation + 1

    @property
    def has_runtime_heap(self) -> bool:
        """Whether it has a heap of objects of its own: that of Go, Java, V8…."""
        if self.faults is not None:
            return False
        is_first = self.generation <= self.first_generation
        return self.hooks.completeness.has_runtime(lambda path: is_first or self.is_mapped(path))

    def remarks(self) -> tuple[Remark, ...]:
        """What the figures do not include, because nothing is hooked there, as of the last
        `update_remarks`."""
        if self.faults is not None:
            return ()
        is_first = self.generation <= self.first_generation
        return self.hooks.completeness.remarks(
            self.generation, lambda path: is_first or self.is_mapped(path)
        )

    def ending(self) -> Ending | None:
        """How the process has ended; None while it lives."""
        if self.process.is_alive():
            return None
        now = self.slot.session_now()
        if self.command is not None:
            ending = self.command.ending()
        else:
            ending = ending_of(int(now["wait_status"]))
        was_chosen = bool(now["oom_ns"]) and ending.signal == signal.SIGKILL
        return replace(ending, by_oom_killer=True) if was_chosen else ending

    # --- changes ---------------------------------------------------------------------------

    def execute(self, generation: int) -> None:
        """The process has executed a program. What was known of the former image is forgotten."""
        self._has_executed = True
        self.generation = generation
        self.regions.clear()
        self.files.forget()
        self.own.forget()
        self.same_sites.clear()
        self.hooks.loader = None
        self.names.forget()
        name = self.process.read_name()
        if generation > self.first_generation:
            self.notes.add(notes.of_exec(name))
        self.look_times.after_exec()

    def take_executed(self) -> bool:
        """Whether the process has executed a program since the last call."""
        executed, self._has_executed = self._has_executed, False
        return executed

    def see_mappings(self, mappings: tuple[Mapping, ...], epoch: int) -> None:
        """Follow the process to these mappings: names, unwind tables and probes for what is new.

        `epoch`: the session's, before the mappings were read. Raises LeaktraceError when an object
        can't be hooked.
        """
        saw_loads = self.hooks.is_loader_hooked
        self._mapped = {m.path for m in mappings if m.is_executable}
        self.own.follow(mappings)
        self.symbolizer.refresh(mappings)
        self.symbolizer.look_ahead()
        if self.is_started:
            self.hooks.attach_loader(mappings)
            self.hooks.attach_stops(mappings)
        self._list_code(epoch, saw_loads=saw_loads)
        if self.hooks.is_loader_hooked and not saw_loads:
            self.look_times.at_once()  # what was loaded since the mappings were read was not seen
        if self.faults is not None:
            self.faults.follow(mappings)
        else:
            self.hooks.attach_new(mappings, is_started=self.is_started, is_late=not self.is_at_exec)
        self._seen_generation = self.generation

    def _list_code(self, epoch: int, *, saw_loads: bool) -> None:
        """Give the walker the unwind tables of the code that is known now. `saw_loads`: every
        object that was loaded since the mappings were read was noticed."""
        if self.tables is None:
            return
        view, loader = self.symbolizer.views.now, self.hooks.loader
        moment = Moment(
            self.generation,
            epoch,
            view.number,
            loader.r_debug if loader is not None else 0,
            saw_loads,
        )
        unlisted, present = self.symbolizer.loaded(), self.symbolizer.mappings
        self.tables.follow(view.mappings, moment, unlisted, present)

    def repair_probes(self) -> None:
        """Restore the probes that something has overwritten, and note it."""
        if self.process.is_alive():
            found = self.hooks.repair(self.mappings())
            if found is not None:
                self.probe_notes = found

    def update_remarks(self, traced_pids: Collection[int], *, follows: bool) -> None:
        """Update the remarks and notes for the next report. `follows`: its new children are
        traced."""
        if not follows:
            self._notice_children(traced_pids)
        if self.faults is None:
            self.hooks.completeness.look(self.mappings(), self.generation)

    def notice_older_children(self, traced_pids: Collection[int]) -> None:
        """Note that there are children from before the trace: only later ones are followed."""
        older = [pid for pid in self.process.children() if pid not in traced_pids]
        if self.command is None and older:
            self.children_note = notes.of_older_children(older)

    def _notice_children(self, traced_pids: Collection[int]) -> None:
        """Note that there are children. They are not traced, and without that note a report would
        look too good."""
        started = int(self.slot.session_now()["children"])
        children: list[int] = []
        if not self.children_note:
            children = [pid for pid in self.process.children() if pid not in traced_pids]
        if started or children:
            pid = children[0] if children else 0
            self.children_note = notes.of_children(pid, started)


def mappings_now(pid: int) -> tuple[Mapping, ...]:
    """The mappings of a process; none when it has ended, or they can't be read."""
    with contextlib.suppress(LeaktraceError):
        return read_mappings(pid)
    return ()
