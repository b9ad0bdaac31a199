"""The unwind tables of the objects that a process has mapped."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from leaktrace.elf import ElfObject
from leaktrace.errors import ObjectFileError
from leaktrace.target.mappings import Mapping
from leaktrace.unwind.budget import TableBudget
from leaktrace.unwind.cache import TableCache
from leaktrace.unwind.ends import with_ends
from leaktrace.unwind.fingerprint import fingerprint, is_unmistakable
from leaktrace.unwind.table import UnwindTable, frame_bytes

VDSO = "[vdso]"
GONE = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))  # as when nothing is there now
_MAX_VDSO_BYTES = 1 << 20
_SMALL_FILE_BYTES = 4 << 20  # whatever it holds is worth no look beforehand


@dataclass(frozen=True)
class ProcessTables:
    """A `TableProvider` for one process: the mapped file itself, whatever its path names by now."""

    pid: int
    cache: TableCache
    budget: TableBudget = field(default_factory=TableBudget)
    open_objects: Callable[[Mapping], ElfObject | None] = lambda _: None  # that are open already

    def fingerprint(self, mapping: Mapping) -> int:
        """By which the object behind a mapping is known when it is loaded again; 0: by nothing."""
        elf = self.open_objects(mapping)
        return fingerprint(elf) if elf is not None and is_unmistakable(elf) else 0

    def __call__(self, mapping: Mapping) -> UnwindTable | None:
        """The table of the object behind a mapping, None for memory without one.

        Raises ObjectFileError.
        """
        elf = self.open_objects(mapping)
        if elf is not None:
            return with_ends(elf, self.cache.table_for(elf, self.budget))
        if mapping.path == VDSO and not mapping.is_file:
            with ElfObject.from_bytes(self._memory(mapping), VDSO) as elf:
                return self.cache.table_for(elf, self.budget)
        if not mapping.is_file:
            return None
        with ElfObject.open(mapping.open_path(self.pid), mapping.path) as elf:
            if elf.descriptor is None or not mapping.is_of(elf.descriptor):
                raise ObjectFileError(f"{mapping.path} is not mapped any more") from GONE
            return with_ends(elf, self.cache.table_for(elf, self.budget))

    def weight(self, mapping: Mapping) -> int:
        """Bytes of the unwind information of a large object, 0 of a small one: those go first."""
        return weight_of(mapping.open_path(self.pid)) if mapping.is_file else 0

    def _memory(self, mapping: Mapping) -> bytes:
        size = mapping.end - mapping.start
        if size > _MAX_VDSO_BYTES:
            raise ObjectFileError(f"{mapping.path} has {size:,} bytes: too large for a vDSO")
        try:
            with Path(f"/proc/{self.pid}/mem").open("rb", buffering=0) as memory:
                memory.seek(mapping.start)
                return memory.read(size)
        except OSError as error:
            reason = error.strerror or "unknown error"
            raise ObjectFileError(f"{mapping.path} can't be read: {reason}") from error


def weight_of(path: str | Path) -> int:
    """As `ProcessTables.weight`, of a file; 0 where it can't be told."""
    try:
        if os.stat(path).st_size < _SMALL_FILE_BYTES:  # noqa: PTH116 (a path of either type)
            return 0
        with ElfObject.open(path) as elf:
            return frame_bytes(elf)
    except (OSError, ObjectFileError):
        return 0
