"""Keeps the walker's tables up to date while the mappings of the process change."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import PurePosixPath

from leaktrace.abi.process import MAX_LISTED_MAPPINGS
from leaktrace.arch.machines import this_machine
from leaktrace.cache.directory import user_cache_directory
from leaktrace.elf.object import ElfObject
from leaktrace.errors import ObjectFileError
from leaktrace.process.kernel_tables import KernelTables, Moment
from leaktrace.targets.mappings import Mapping
from leaktrace.unwind.budget import TableBudget
from leaktrace.unwind.cache import TableCache
from leaktrace.unwind.layout import UnwindFailure, UnwindLayout, Update
from leaktrace.unwind.placed import MAX_ROWS, Capacity, PlacedTables
from leaktrace.unwind.process_tables import ProcessTables, weight_of

_UPROBES = "[uprobes]"  # the page that pending return probes redirect to (kernel/events/uprobes.c)
_MOST_NAMED = 10  # objects in a note
_SPARE_ROWS = 1 << 20  # for objects loaded later: 8 MiB of kernel memory, libLLVM just fits
_SPARE_ROWS_OF_COMMAND = 4 << 20  # an interpreter's modules, which only come once it runs


class TableFollower:
    """The unwind tables of one process, from planning to every later change."""

    def __init__(
        self,
        pid: int,
        budget: TableBudget,
        open_objects: Callable[[Mapping], ElfObject | None] = lambda _: None,
        shared: PlacedTables | None = None,
    ) -> None:
        """`open_objects`: the object behind a mapping that the caller has open, or None; `shared`:
        the tables of all traced processes."""
        self._cache = TableCache(user_cache_directory())
        self._budget = budget
        tables = ProcessTables(pid, self._cache, budget, open_objects)
        self._layout = UnwindLayout(
            tables, tables.weight, tables.fingerprint, shared or PlacedTables()
        )
        self._kernel: KernelTables | None = None
        self._pending: list[Update] = []
        self._known: tuple[Mapping, ...] = ()
        self._moment = Moment()
        self._followed: tuple[object, ...] = ((), self._moment, (), ())
        self._has_left_out_mappings = False
        self._has_lacked_room = False  # because other processes have taken it
        self.failures: list[UnwindFailure] = []

    def plan(self, mappings: Sequence[Mapping]) -> Capacity:
        """Compile the tables of a running process, before the BPF program is loaded. Returns the
        room that they need."""
        self.place(mappings)
        return self._layout.reserve(_SPARE_ROWS)

    def place(self, mappings: Sequence[Mapping]) -> None:
        """Compile the tables of a running process."""
        executable = _executable(mappings)
        self._take(self._layout.update(executable), executable)
        self._followed = (executable, self._moment, (), ())

    def plan_files(self, paths: Iterable[str]) -> Capacity:
        """The same for a program that is about to run, by the files it will map."""
        rows = 0
        for path in sorted(paths, key=weight_of):
            if rows >= MAX_ROWS:
                break
            try:
                with ElfObject.open(path) as elf:
                    rows += len(self._cache.table_for(elf, self._budget).rows)
            except ObjectFileError:
                continue  # reported when the object is mapped
        return self._layout.reserve(_SPARE_ROWS_OF_COMMAND + rows)

    def install(self, tables: KernelTables) -> None:
        """The program is loaded: fill its arrays."""
        self._kernel = tables
        self._write()

    def follow(
        self,
        mappings: Sequence[Mapping],
        moment: Moment,
        unlisted: Sequence[Mapping] = (),
        present: Sequence[Mapping] | None = None,
    ) -> None:
        """The process has, or had, these mappings; those of `unlisted` may come back. It has those
        of `present` now (None: all of `mappings`)."""
        executable = _executable(mappings)
        now = executable if present is None else _executable(present)
        followed = (executable, moment, unlisted, now if self._has_left_out_mappings else ())
        if followed == self._followed:
            return
        self._moment = moment
        self._budget.look_again()
        for update in self._layout.update_in_steps(executable, unlisted, now):
            self._take(update, executable)
            self._write()
        self._followed = (executable, moment, unlisted, now if self._has_left_out_mappings else ())

    def close(self) -> None:
        """The process has ended."""
        self._layout.close()

    def left_out(self) -> Iterator[str]:
        """Notes for a report: code without unwind tables because of a limit of leaktrace."""
        paths = [failure.path for failure in self.failures if failure.is_over_budget]
        if paths:
            distinct = dict.fromkeys(PurePosixPath(path).name for path in paths[:_MOST_NAMED])
            more = len(paths) - _MOST_NAMED
            names = ", ".join(distinct) + (f" and {more} more" if more > 0 else "")
            yield (
                f"stacks through {names} are found by frame pointers only, because their unwind "
                "tables exceed a limit of leaktrace (-v shows which)"
            )
        if self._has_left_out_mappings:
            limit = f"more than {MAX_LISTED_MAPPINGS:,} executable mappings"
            if self._has_lacked_room:
                limit = "more executable mappings than there is room for, with so many processes"
            yield (
                f"the process has {limit}: stacks through the code in the others are found by "
                "frame pointers only"
            )

    def _take(self, update: Update, executable: tuple[Mapping, ...]) -> None:
        """The next update to write."""
        self._known = executable
        self._has_left_out_mappings |= update.mappings_left_out > 0
        listed = len(update.mappings)
        self._has_lacked_room |= update.mappings_left_out > 0 and listed < self._layout.longest_list
        self.failures += update.failures
        self._pending.append(update)

    def _write(self) -> None:
        if self._kernel is None:
            return
        machine = this_machine()
        # Walks before the next look find the page where the kernel usually puts it.
        usual = machine.return_trampoline if machine is not None else 0
        trampoline = next((m.start for m in self._known if m.path == _UPROBES), usual)
        for update in self._pending:
            self._kernel.write(update, self._moment, trampoline)
        self._pending = []


def _executable(mappings: Sequence[Mapping]) -> tuple[Mapping, ...]:
    return tuple(m for m in mappings if m.is_executable)
