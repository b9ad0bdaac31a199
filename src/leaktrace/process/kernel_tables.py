"""The BPF arrays that the walker reads, filled from user space.

Rows and pages are written through mmap: two million rows take hundredths of a second. The array of
mappings has room for two lists of each process. A new list replaces the one before last and is then
switched to, so a walk that has begun goes on by the list that it began with. If that list is
replaced before the walk ends, the walk counts as broken: `finish_walk` in bpf/process/walk.bpf.c
compares versions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from leaktrace.abi import process as abi
from leaktrace.bpf.maps import Map
from leaktrace.unwind.layout import Update, at_array_stride

LATE_OBJECTS = 16  # of each process: bpf/process/state.h


class Moment(NamedTuple):
    """The state of the process that a list of mappings belongs to."""

    generation: int = 0  # of the executable image (abi.SESSION)
    epoch: int = 0  # the session's, before the mappings were read
    view: int = 0  # number of their view (symbols/views.py)
    loader: int = 0  # address of the dynamic loader's r_debug; 0: unknown
    sees_loads: bool = False  # the loader was followed already when the mappings were read


@dataclass
class KernelTables:
    """The maps that the walker reads, and which part of them is that of one process."""

    rows: Map
    pages: Map
    mappings: Map
    list: Map
    known: Map
    late: Map
    slot: int = 0
    _version: int = 0

    def of_slot(self, slot: int) -> KernelTables:
        """The same maps, for the process in another slot."""
        return KernelTables(
            self.rows, self.pages, self.mappings, self.list, self.known, self.late, slot
        )

    def write(self, update: Update, moment: Moment, trampoline: int) -> None:
        """Write an update, and activate it.

        `trampoline` is the address of the target's [uprobes] page, which pending return probes
        return to, or 0. Raises OSError.
        """
        self.rows.write_mapped(update.row_start, update.rows)
        self.pages.write_mapped(update.page_start, at_array_stride(update.pages))
        for index in range(len(update.mappings)):
            self.mappings.update(update.mapping_start + index, update.mappings[index : index + 1])
        for index, fingerprint in enumerate(update.known["fingerprint"].tolist()):
            self.known.update(fingerprint, update.known[index : index + 1])
        self._version += 1
        first = self.slot * abi.UNWIND_LISTS
        number = first + 1 + self._version % (abi.UNWIND_LISTS - 1)
        in_force = np.zeros(1, dtype=abi.UNWIND_LIST)
        in_force["place"] = update.mapping_start | len(update.mappings) << 32
        in_force["generation"] = moment.generation
        in_force["version"] = self._version
        in_force["trampoline"] = trampoline
        in_force["loader"] = moment.loader
        in_force["epoch"] = moment.epoch
        in_force["view"] = moment.view
        in_force["sees_loads"] = moment.sees_loads
        self.list.update(number, in_force)
        in_force["place"] = number
        self.list.update(first, in_force)
