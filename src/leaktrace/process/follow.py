"""Keeps the walker's tables true to the process while its mappings change."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePosixPath

from leaktrace.arch.machines import this_machine
from leaktrace.cache.directory import user_cache_directory
from leaktrace.elf.object import ElfObject
from leaktrace.errors import ObjectFileError
from leaktrace.process.tables import KernelTables, Moment
from leaktrace.targets.mappings import Mapping
from leaktrace.unwind.budget import TableBudget
from leaktrace.unwind.cache import TableCache
from leaktrace.unwind.layout import MAX_ROWS, Capacity, UnwindFailure, UnwindLayout, Update
from leaktrace.unwind.process import ProcessTables, weight_of

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
    ) -> None:
        """`open_objects`: those behind mappings that somebody else holds open."""
        self._cache = TableCache(user_cache_directory())
        self._budget = budget
        tables = ProcessTables(pid, self._cache, budget, open_objects)
        self._layout = UnwindLayout(tables, tables.weight, tables.fingerprint)
        self._kernel: KernelTables | None = None
        self._pending: list[Update] = []
        self._known: tuple[Mapping, ...] = ()
        self._moment = Moment()
        self._unlisted: Sequence[Mapping] = ()
        self.failures: list[UnwindFailure] = []

    def plan(self, mappings: Sequence[Mapping]) -> Capacity:
        """Compile the tables of a process that runs. Returns the room that all will need."""
        self._place(_executable(mappings))
        return self._layout.reserve(_SPARE_ROWS)

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
                continue  # it is told when the object is mapped
        return self._layout.reserve(_SPARE_ROWS_OF_COMMAND + rows)

    def install(self, tables: KernelTables) -> None:
        """The program is loaded: fill its arrays."""
        self._kernel = tables
        self._write()

    def follow(
        self, mappings: Sequence[Mapping], moment: Moment, unlisted: Sequence[Mapping] = ()
    ) -> None:
        """The process has these mappings now; those of `unlisted` may come back."""
        executable = _executable(mappings)
        if executable == self._known and moment == self._moment and unlisted == self._unlisted:
            return
        self._moment, self._unlisted = moment, unlisted
        self._budget.look_again()
        self._place(executable, unlisted)
        self._write()

    def left_out(self) -> tuple[str, ...]:
        """What a report says of objects whose tables are more than a run takes on."""
        paths = [failure.path for failure in self.failures if failure.is_over_budget]
        if not paths:
            return ()
        names = ", ".join(dict.fromkeys(PurePosixPath(path).name for path in paths[:_MOST_NAMED]))
        more = len(paths) - _MOST_NAMED
        return (
            f"stacks through {names}{f' and {more} more' if more > 0 else ''} are found by frame "
            "pointers only: their unwind tables are larger than leaktrace takes on (-v says more)",
        )

    def _place(self, executable: tuple[Mapping, ...], unlisted: Sequence[Mapping] = ()) -> None:
        update = self._layout.update(executable, unlisted)
        self._known = executable
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
