"""The unwind tables of the objects that a process has mapped."""

from __future__ import annotations

from dataclasses import dataclass

from leaktrace.elf import ElfObject
from leaktrace.errors import ObjectFileError
from leaktrace.target.mapped_files import MappedFiles
from leaktrace.target.mappings import Mapping
from leaktrace.target.memory import ProcessMemory
from leaktrace.unwind.cache import TableCache
from leaktrace.unwind.table import UnwindTable

VDSO = "[vdso]"
_MAX_VDSO_BYTES = 1 << 20


@dataclass(frozen=True)
class ProcessTables:
    """A `TableProvider` for one process: the mapped file itself, whatever its path names by now."""

    pid: int
    cache: TableCache

    def __call__(self, mapping: Mapping) -> UnwindTable | None:
        """The table of the object behind a mapping, None for memory without one.

        Raises ObjectFileError.
        """
        if mapping.path == VDSO and not mapping.is_file:
            with ElfObject.from_bytes(self._memory(mapping), VDSO) as elf:
                return self.cache.table_for(elf)
        if not mapping.is_file:
            return None
        with MappedFiles(self.pid).elf(mapping) as elf:
            return self.cache.table_for(elf)

    def _memory(self, mapping: Mapping) -> bytes:
        size = mapping.end - mapping.start
        if size > _MAX_VDSO_BYTES:
            raise ObjectFileError(f"{mapping.path} has {size:,} bytes: too large for a vDSO")
        try:
            with ProcessMemory(self.pid) as memory:
                return memory.read(mapping.start, size)
        except OSError as error:
            reason = error.strerror or "unknown error"
            raise ObjectFileError(f"{mapping.path} can't be read: {reason}") from error
