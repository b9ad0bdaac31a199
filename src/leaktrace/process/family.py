"""The processes that are traced together: those that were named, and children that are followed.

A child is followed by the kernel's event of its fork. It is attached some milliseconds later:
what it allocates before that is not seen. Its copies of what its parent had allocated are the
parent's: a block counts as the child's when the child allocates it.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Iterator, Sequence

import numpy as np

from leaktrace.errors import LeaktraceError, TargetError
from leaktrace.notices import hint, notify
from leaktrace.own.shortages import shortage
from leaktrace.process.attach.keeper import Keeper, KeeperGoneError
from leaktrace.process.event_intake import EventDispatch
from leaktrace.process.keys import slots_of, slots_of_sites
from leaktrace.process.member import Member
from leaktrace.process.opening import Opening, Planning, Target
from leaktrace.process.program import Program
from leaktrace.process.slot import Slot
from leaktrace.process.untraced import Untraced
from leaktrace.targets.namespaces import pids_are_global
from leaktrace.targets.process import Process, is_running

_TRIES = 3  # to attach to a child that executes programs meanwhile
_DROPPED_SHARE = 4  # of the ended processes, one in so many makes room: all maps are read for it
# Probes of processes that have ended are removed together: one removal takes as long as many.
_REMOVE_AFTER_S = 1.0
# Where events of forks don't say which children they are about, /proc is read this often at most.
_FIND_AFTER_S = 0.1


class Family:
    """All traced processes of one run, by slot."""

    def __init__(
        self,
        program: Program,
        events: EventDispatch,
        planning: Planning,
        opening: Opening,
        keeper: Keeper | None,
        *,
        slots: int,
        follows: bool,
    ) -> None:
        """`slots`: how many processes can be traced at a time; `follows`: trace children, too."""
        self._program = program
        self._events = events
        self._planning = planning
        self._opening = opening
        self._keeper = keeper
        self._free = list(range(slots))[::-1]
        self._uses = [0] * slots
        self.follows = follows
        self._by_number: dict[int, Member] = {}
        self._ends = select.epoll()
        self._all_ended = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._ends.register(self._all_ended, select.EPOLLIN)
        self._removal_s: float | None = None
        self._left_behind: list[int] = []  # probes of ended processes, by the keeper's numbers
        self._known_children: set[int] = set()  # that were traced, or shall not be
        self._found_s = 0.0  # when children were looked for, on the clock of time.monotonic()
        self.untraced = Untraced()
        self.dropped = 0  # ended processes that no report has shown, because they had to make room
        self._said_that_it_goes_on = False
        self.is_kept = False  # records of ended processes are kept while there is room

    # --- members ---------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Member]:
        return iter(tuple(self._by_number.values()))

    def __len__(self) -> int:
        return len(self._by_number)

    @property
    def first(self) -> Member:
        """The one that was named first, or the command."""
        return next(iter(self._by_number.values()))

    @property
    def living(self) -> list[Member]:
        """Those that have not ended, as far as was noticed."""
        return [member for member in self if not member.has_ended]

    def of_slot(self, number: int) -> Member | None:
        """The member in a slot."""
        return self._by_number.get(number)

    def fileno(self) -> int:
        """Readable when one of them ends, and as long as all have ended."""
        return self._ends.fileno()

    def take_slot(self) -> Slot | None:
        """A free slot, if need be that of a process that has ended; None: there is none."""
        if not self._free:
            self.notice_ends()
            ended = [one for one in self if one.has_ended and one is not self.first]
            if not ended:
                return None
            ended.sort(key=lambda one: (not one.was_reported, one.since_s))
            self._drop(ended[: max(len(ended) // _DROPPED_SHARE, 1)])
        number = self._free.pop()
        self._uses[number] += 1
        slot = Slot(self._program, number, self._uses[number] - 1, time.monotonic_ns())
        slot.prepare()
        return slot

    def give_back(self, slot: Slot) -> None:
        """The process that should get this slot can't be traced."""
        member = self._by_number.pop(slot.number, None)
        if member is not None:
            member.close()
        slot.clear()
        self._free.append(slot.number)

    def add(self, member: Member) -> None:
        """Another process is traced."""
        self._by_number[member.number] = member
        if member.parent_pid is None and member.traced.command is None:
            self._known_children.update(member.traced.process.children())  # older than the trace
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._all_ended)
        self._ends.register(member.traced.process.fileno(), select.EPOLLIN)

    # --- children --------------------------------------------------------------------------

    def follow_forks(self) -> None:
        """Attach to the children that have been forked since the last call."""
        forks = self._events.take_forks()
        if not self.follows:
            return
        are_unknown = not pids_are_global() or any(not fork.pid for fork in forks)
        if are_unknown and (forks or time.monotonic() - self._found_s > _FIND_AFTER_S):
            self._find_children()
        for fork in forks:
            if fork.pid and not are_unknown:
                self._adopt(fork.pid, fork.parent_pid, is_announced=True)

    def _find_children(self) -> None:
        """Attach to new children by what /proc says: the kernel's event may have no id, or one of
        another pid namespace."""
        self._found_s = time.monotonic()
        current: set[int] = set()
        for member in self.living:
            children = member.traced.process.children()
            current.update(children)
            for pid in children:
                if pid not in self._known_children and not self._find(pid):
                    self._known_children.add(pid)
                    self._adopt(pid, member.pid, is_announced=False)
        self._known_children &= current

    def _find(self, pid: int) -> Member | None:
        return next((one for one in self if one.pid == pid), None)

    def _adopt(self, pid: int, parent_pid: int, *, is_announced: bool) -> None:
        """Trace a child, if it still runs and there is room. `is_announced`: the kernel side knows
        it by this id, unless the child has ended."""
        slot: Slot | None = None
        try:
            for attempt in range(_TRIES):
                process = Process(pid)
                slot = slot or self.take_slot()
                if slot is None:
                    process.close()
                    self.untraced.too_many += 1
                    return
                parent = self._find(parent_pid) or self.first
                target = Target(process, parent=parent, parent_pid=parent_pid)
                execs = slot.execs(pid)
                if is_announced and execs is None:  # its id may belong to another process by now
                    process.close()
                    raise TargetError(f"process {pid} has ended", "it was a child")
                member = self._open(target, slot)
                if slot.execs(pid) == execs or attempt == _TRIES - 1:
                    self.add(member)
                    member.arm(follows=True)
                    return
                member.close()  # it has executed another program than the one that was planned
        except KeeperGoneError:
            raise
        except (LeaktraceError, OSError) as error:
            if slot is not None:
                self.give_back(slot)
            self._count_refused(pid, error)

    def _open(self, target: Target, slot: Slot) -> Member:
        """Raises LeaktraceError."""
        with_tables = self._program.tables is not None
        try:
            plans = self._planning.plan(target, None, with_tables=with_tables)
        except BaseException:
            target.process.close()
            raise
        return self._opening.open(plans, slot)

    def _count_refused(self, pid: int, error: LeaktraceError | OSError) -> None:
        if isinstance(error, TargetError) or not is_running(pid):
            self.untraced.ended += 1
            return
        problem = error if isinstance(error, LeaktraceError) else shortage(error)
        self.untraced.refuse(str(error) if problem is None else problem.message, pid)

    # --- ends ------------------------------------------------------------------------------

    def notice_ends(self) -> bool:
        """Find the processes that have ended. Returns whether all have."""
        for member in self.living:
            if not member.traced.process.is_alive():
                member.has_ended = True
                self._ends.unregister(member.traced.process.fileno())
                self._left_behind += member.attachments.hand_over()
                if self._removal_s is None:
                    self._removal_s = time.monotonic() + _REMOVE_AFTER_S
                member.traced.slot.forget_process()
        self._say_what_goes_on()
        if self.living:
            return False
        # A report may have noticed it, and the loop must be told.
        os.eventfd_write(self._all_ended, 1)
        return True

    def _say_what_goes_on(self) -> None:
        """When the command ends before the processes that it has started."""
        command = next((one for one in self if one.traced.command is not None), None)
        living = self.living
        if self._said_that_it_goes_on or command is None or not command.has_ended or not living:
            return
        self._said_that_it_goes_on = True
        still = "process that it started still runs"
        if len(living) > 1:
            still = "processes that it started still run"
        notify(f"the command has ended; {len(living)} {still}: tracing goes on")
        hint("Ctrl-C ends it")

    def next_s(self) -> float | None:
        """When `proceed` is due, on the clock of time.monotonic(); None: it isn't."""
        if self._events.has_forks and self.follows:
            return time.monotonic()
        # In a pid namespace, events may be missing: before a process hits its first probe.
        find_s = self._found_s + _FIND_AFTER_S if self.follows and not pids_are_global() else None
        times = (self._removal_s, find_s, *(member.looks.next_s() for member in self.living))
        return min((one for one in times if one is not None), default=None)

    def proceed(self) -> None:
        """Do what is due: attach to new children, look at mappings, remove the probes of processes
        that have ended."""
        self.follow_forks()
        pids = {member.pid for member in self.living}
        for member in self.living:
            member.looks.look_if_due(pids)
        if self._removal_s is not None and self._removal_s <= time.monotonic() and self.living:
            self._removal_s = None
            self._remove_left_behind()

    def _remove_left_behind(self) -> None:
        probes, self._left_behind = self._left_behind, []
        if probes and self._keeper is not None:
            with contextlib.suppress(KeeperGoneError):  # reported at the end
                self._keeper.remove(probes)

    def forget_reported(self) -> None:
        """A report was made: processes that had ended before are not in the next one, unless their
        records are to be kept."""
        ended = [member for member in self if member.has_ended]
        if not self.is_kept and len(ended) < len(self):
            self._drop([member for member in ended if member.was_reported])
        for member in ended:
            member.was_reported = True

    def _drop(self, members: Sequence[Member]) -> None:
        """Delete what was recorded of processes that have ended, and free their slots."""
        if not members:
            return
        program, numbers = self._program, [member.number for member in members]
        keys, _ = program.allocations.read_all()
        program.allocations.delete_all(keys[np.isin(slots_of(keys), numbers)])
        ids, sites = program.sites.read_all()
        own = ids[np.isin(slots_of_sites(sites), numbers)]
        program.sites.delete_all(own)
        program.stacks.delete_all(own)
        if program.releases is not None:
            program.stacks.delete_all(program.releases.forget(own))
        if program.lifetimes is not None:
            program.lifetimes.forget(own)
        for member in members:
            del self._by_number[member.number]
            self.dropped += not member.was_reported
            member.traced.slot.clear()
            member.close()
        self._free += numbers

    def close(self) -> None:
        """Detach from all processes."""
        for member in self:
            self._left_behind += member.attachments.hand_over()
        self._remove_left_behind()
        for member in self:
            member.close()
        self._by_number.clear()
        self._ends.close()
        os.close(self._all_ended)
