"""The unwind tables of the objects that a process has mapped."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from leaktrace.elf.object import ElfObject
from leaktrace.errors import ObjectFileError, TargetError
from leaktrace.targets.mapped_files import MappedFiles
from leaktrace.targets.mappings import Mapping
from leaktrace.targets.vdso import is_vdso, read_vdso
from leaktrace.unwind.budget import TableBudget
from leaktrace.unwind.cache import TableCache
from leaktrace.unwind.ends import with_ends
from leaktrace.unwind.fingerprint import fingerprint, is_unmistakable
from leaktrace.unwind.table import UnwindTable, frame_bytes

_SMALL_FILE_BYTES = 4 << 20  # its table is small, so its size need not be known beforehand


@dataclass(frozen=True)
class ProcessTables:
    """A `TableProvider` for one process. It reads the mapped files, not what their paths name."""

    pid: int
    cache: TableCache
    budget: TableBudget = field(default_factory=TableBudget)
    open_objects: Callable[[Mapping], ElfObject | None] = lambda _: None  # those that are open

    _fingerprints: WeakKeyDictionary[ElfObject, tuple[tuple[int, ...], int]] = field(
        default_factory=WeakKeyDictionary, init=False
    )  # with the file's state when it was computed

    def fingerprint(self, mapping: Mapping) -> int:
        """The number by which the object behind a mapping is recognized when it is loaded again
        (fingerprint.py); 0 if it has none that no other object has."""
        elf = self.open_objects(mapping)
        if elf is None:
            return 0
        state = _state(elf)
        known = self._fingerprints.get(elf)
        if known is None or known[0] != state:
            known = state, fingerprint(elf) if is_unmistakable(elf) else 0
            self._fingerprints[elf] = known
        return known[1]

    def __call__(self, mapping: Mapping) -> UnwindTable | None:
        """The table of the object behind a mapping, None for memory without one.

        Raises ObjectFileError.
        """
        elf = self.open_objects(mapping)
        if elf is not None:
            return with_ends(elf, self.cache.table_for(elf, self.budget))
        if is_vdso(mapping):
            with read_vdso(self.pid, mapping) as elf:
                return self.cache.table_for(elf, self.budget)
        if not mapping.is_file:
            return None
        with MappedFiles(self.pid).elf(mapping) as elf:
            return with_ends(elf, self.cache.table_for(elf, self.budget))

    def weight(self, mapping: Mapping) -> int:
        """Bytes of the unwind information of a large object, 0 of a small one."""
        elf = self.open_objects(mapping)
        if elf is not None:
            return _weight(elf)
        if not mapping.is_file:
            return 0
        try:
            with MappedFiles(self.pid).elf(mapping) as elf:
                return _weight(elf)
        except (TargetError, ObjectFileError):
            return 0


def _state(elf: ElfObject) -> tuple[int, ...]:
    """Changes when a file is written over. One that was closed can't: it is compared when it is
    opened again."""
    if not elf.holds_file or elf.descriptor is None:
        return elf.file_stamp
    status = os.fstat(elf.descriptor)
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def weight_of(path: str) -> int:
    """As `ProcessTables.weight`, of a file; 0 where it can't be read."""
    try:
        with ElfObject.open(path) as elf:
            return _weight(elf)
    except ObjectFileError:
        return 0


def _weight(elf: ElfObject) -> int:
    return frame_bytes(elf) if elf.file_size >= _SMALL_FILE_BYTES else 0
