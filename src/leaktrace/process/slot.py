"""A slot: the part of the BPF maps that belongs to one traced process."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from leaktrace.abi import process as abi
from leaktrace.process.kernel_tables import KernelTables
from leaktrace.process.program import Program
from leaktrace.targets.namespaces import pids_are_global


@dataclass(frozen=True)
class Slot:
    """The kernel side's state of one traced process."""

    program: Program
    number: int
    use: int = 0  # counts the processes that had it

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

    def arm(self, pid: int, *, follows: bool) -> None:
        """Record what this process allocates from now on. `follows`: see its children, too."""
        session = np.zeros(1, dtype=abi.SESSION)
        session["armed"] = session["epoch"] = session["sent_epoch"] = 1
        session["slot"], session["use"] = self.number, self.use
        # Elsewhere, the kernel side takes the tgid of the first hit.
        if pids_are_global():
            session["tgid"] = pid
        self.program.session.update(self.number, session)
        if pids_are_global():
            process = np.zeros(1, dtype=abi.PROCESS)
            process["slot"], process["follows"] = self.number, follows
            self.program.processes.update(pid, process)

    def clear(self) -> None:
        """Prepare the slot for another process."""
        self.program.session.update(self.number, np.zeros(1, dtype=abi.SESSION))
        if self.program.tables is not None:
            lists = self.program.tables.list
            lists.update(self.number * abi.UNWIND_LISTS, np.zeros(1, dtype=abi.UNWIND_LIST))
