"""A slot: the part of the BPF maps that belongs to one traced process."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leaktrace.abi import process as abi
from leaktrace.process.kernel_tables import LATE_OBJECTS, KernelTables
from leaktrace.process.keys import slots_of
from leaktrace.process.program import Program
from leaktrace.targets.namespaces import pids_are_global


@dataclass(frozen=True)
class Slot:
    """The kernel side's state of one traced process."""

    program: Program
    number: int
    use: int = 0  # counts the processes that had it
    since_ns: int = 0  # CLOCK_MONOTONIC; events from before are about a former process

    def session_now(self) -> np.void:
        """Its session (abi.SESSION)."""
        session = self.program.session.lookup(self.number)
        assert session is not None  # an array has all its entries
        return session

    def generation(self) -> int:
        """How often the process has executed a program so far."""
        return int(self.session_now()["generation"])

    def tables(self) -> KernelTables | None:
        """The walker's tables; None where stacks are not walked by tables."""
        tables = self.program.tables
        return None if tables is None else tables.of_slot(self.number)

    def cookie(self, what: int) -> int:
        """The cookie of a probe: `what` is a function or the index of a point."""
        return what | self.number << abi.COOKIE_SLOT_SHIFT

    def prepare(self) -> None:
        """Before probes are attached: their programs must see which slot they are in."""
        session = np.zeros(1, dtype=abi.SESSION)
        session["slot"], session["use"] = self.number, self.use
        self.program.session.update(self.number, session)

    def execs(self, pid: int) -> int | None:
        """How often a child has executed a program while it was not traced; None if the kernel
        side doesn't know such a child."""
        process = self.program.processes.lookup(pid)
        is_waiting = process is not None and int(process["slot"]) == abi.NO_SLOT
        return int(process["execs"]) if process is not None and is_waiting else None

    def arm(self, pid: int, *, follows: bool, program_break: int) -> None:
        """Record what this process allocates from now on. `follows`: see its children, too.
        `program_break`: where it is, as far as that is known."""
        session = np.zeros(1, dtype=abi.SESSION)
        session["armed"] = session["epoch"] = session["sent_epoch"] = 1
        session["slot"], session["use"] = self.number, self.use
        session["program_break"] = program_break
        # Elsewhere, the kernel side takes the tgid of the first hit.
        if pids_are_global():
            session["tgid"] = pid
        self.program.session.update(self.number, session)
        if pids_are_global():
            process = np.zeros(1, dtype=abi.PROCESS)
            process["slot"], process["follows"] = self.number, follows
            self.program.processes.update(pid, process)

    def clear(self) -> None:
        """Prepare the slot for another process: forget all that this one left behind, except for
        records, sites and stacks."""
        program, number = self.program, self.number
        self._forget_process(int(self.session_now()["tgid"]))
        program.session.update(number, np.zeros(1, dtype=abi.SESSION))
        if program.tables is not None:
            lists, late = program.tables.list, program.tables.late
            nothing = np.zeros(1, dtype=abi.UNWIND_LIST)
            first = nothing["place"] = number * abi.UNWIND_LISTS
            nothing["generation"] = 1 << 32  # of no image
            lists.update(first, nothing)
            for index in range(number * LATE_OBJECTS, (number + 1) * LATE_OBJECTS):
                late.update(index, np.zeros(1, dtype=late.value))
        if program.suspended is not None:
            calls, _ = program.suspended.read_all()
            program.suspended.delete_all(calls[slots_of(calls) == number])
        places, unseen = program.unseen_releases.read_all()
        for place in places[slots_of(unseen["key"]) == number].tolist():
            program.unseen_releases.update(place, np.zeros(1, dtype=abi.UNSEEN_RELEASE))
        if program.closed_ranges is not None:
            nothing = np.zeros(1, dtype=abi.CLOSED_RANGE)
            for index in range(number * abi.CLOSED_RANGES, (number + 1) * abi.CLOSED_RANGES):
                program.closed_ranges.update(index, nothing)
        if program.files is not None:
            for one in (program.files.list, program.files.faults):
                one.update(number, np.zeros(1, dtype=abi.U64))

    def closed_ranges(self) -> NDArray[np.void]:
        """What close_range has closed (abi.CLOSED_RANGE); where file descriptors are traced."""
        ranges = self.program.closed_ranges
        assert ranges is not None
        _, values = ranges.read_all()
        start = self.number * abi.CLOSED_RANGES
        return values[start : start + abi.CLOSED_RANGES]

    def forget_process(self) -> None:
        """The process has ended."""
        self._forget_process(int(self.session_now()["tgid"]))

    def _forget_process(self, tgid: int) -> None:
        """Unless another process has the same id by now."""
        process = self.program.processes.lookup(tgid)
        if process is not None and int(process["slot"]) == self.number:
            self.program.processes.delete(tgid)
