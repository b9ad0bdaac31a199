"""The code by which a mapping is recognized that the program has not asked for: of functions that
release memory, that look after the heap, or that create threads."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property

from leaktrace.cache.directory import user_cache_directory
from leaktrace.elf.object import ElfObject
from leaktrace.elf.symbols import all_functions
from leaktrace.errors import ObjectFileError
from leaktrace.process.probes.code.flow import UnfollowableError
from leaktrace.process.probes.object_plan import ObjectPlan
from leaktrace.process.probes.release_code import ReleaseCode, release_code

_Open = Callable[[], ElfObject]

# Of an allocator: they call no code of the program.
_CARE = ("malloc_trim", "mallopt", "malloc_stats", "mallinfo", "mallinfo2")
# Of the C library: these may call code of the program, which is in another object.
_CARE_OF_LIBRARY = ("malloc_info", "fork", "_Fork", "__fork", "__libc_fork")
_CREATE = ("pthread_create", "__pthread_create")


class FunctionCode:
    """The code of some functions of an object. It is found when the first stack leads there."""

    def __init__(self, opened: _Open, entries: Callable[[ElfObject], Iterable[int]]) -> None:
        self._opened = opened
        self._entries = entries

    def holds(self, offset: int) -> bool:
        """Whether the call before a return address (an offset in the file) is in this code. What
        can't be read or followed is not."""
        try:
            elf, code = self._code
            vaddr = elf.offset_to_vaddr(offset - 1)
        except (ObjectFileError, UnfollowableError):
            return False
        return vaddr is not None and code.holds(vaddr + 1)

    @cached_property
    def _code(self) -> tuple[ElfObject, ReleaseCode]:
        elf = self._opened()
        entries = sorted(set(self._entries(elf)))
        return elf, release_code(elf, entries, user_cache_directory())


class MappingCode:
    """What code of one object is known by."""

    def __init__(self, opened: _Open, releases: Sequence[int], *, is_library: bool) -> None:
        """`releases`: the offsets of releasing functions in the file. `is_library`: it is the C
        library, and has no code of the program."""
        care = (*_CARE, *_CARE_OF_LIBRARY) if is_library else _CARE
        self.releasing = FunctionCode(opened, lambda elf: _vaddrs(elf, releases))
        self.caring = FunctionCode(opened, lambda elf: _named(elf, care))
        # Elsewhere, pthread_create may be a function of the program, around that of the library.
        self.creating_threads = FunctionCode(
            opened, lambda elf: _named(elf, _CREATE) if is_library or not elf.needed else ()
        )

    @classmethod
    def of_plan(cls, plan: ObjectPlan, *, is_library: bool) -> MappingCode:
        """Of an object that is hooked. Its file must still be open, and is kept open."""
        descriptor = plan.elf.descriptor
        assert descriptor is not None  # it was opened from a file
        file = _KeptFile(os.dup(descriptor), plan.path)
        releases = [
            probe.offset - probe.placement.offset
            for probe in plan.probes
            if not probe.hook.has_return
        ]
        return cls(file.open, releases, is_library=is_library)

    @classmethod
    def of_object(cls, elf: ElfObject) -> MappingCode:
        """Of a part of the C library that has no allocator: libpthread, before glibc 2.34."""
        return cls(lambda: elf, (), is_library=True)


class _KeptFile:
    """A file that is read when it is needed."""

    def __init__(self, descriptor: int, path: str) -> None:
        self._descriptor, self._path = descriptor, path
        self._elf: ElfObject | None = None
        weakref.finalize(self, os.close, descriptor)

    def open(self) -> ElfObject:
        """Raises ObjectFileError."""
        if self._elf is None:
            self._elf = ElfObject.open(self._descriptor, self._path)
        return self._elf


def _vaddrs(elf: ElfObject, offsets: Iterable[int]) -> list[int]:
    found = [elf.offset_to_vaddr(offset) for offset in offsets]
    return [vaddr for vaddr in found if vaddr is not None]


def _named(elf: ElfObject, names: Iterable[str]) -> list[int]:
    tables = elf.symbol_tables()
    return [one.vaddr for name in names for one in all_functions(tables, name)]
