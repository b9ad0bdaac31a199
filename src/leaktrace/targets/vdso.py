"""The vDSO: the small shared object that the kernel maps into every process (vdso(7)).

It has no file, so it is read from the memory of the process.
"""

from __future__ import annotations

from leaktrace.elf.object import ElfObject
from leaktrace.errors import ObjectFileError
from leaktrace.targets.mappings import Mapping
from leaktrace.targets.memory import ProcessMemory

_PATH = "[vdso]"
_MAX_BYTES = 1 << 20


def is_vdso(mapping: Mapping) -> bool:
    """Whether a mapping is the vDSO. A file of that name is not."""
    return mapping.path == _PATH and not mapping.is_file


def read_vdso(pid: int, mapping: Mapping) -> ElfObject:
    """The vDSO of a process, from its mapping.

    Raises ObjectFileError when its memory can't be read, or is no ELF object.
    """
    size_bytes = mapping.end - mapping.start
    if size_bytes > _MAX_BYTES:
        raise ObjectFileError(f"the vDSO can't be read: its mapping has {size_bytes:,} bytes")
    try:
        with ProcessMemory(pid) as memory:
            data = memory.read(mapping.start, size_bytes)
    except OSError as error:
        reason = error.strerror or "unknown error"
        raise ObjectFileError(f"the vDSO can't be read: {reason}") from error
    return ElfObject.from_bytes(data, mapping.path)
