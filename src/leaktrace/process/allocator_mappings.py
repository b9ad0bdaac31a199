"""Mappings that an allocator makes for itself, recognized by their stacks.

What malloc maps belongs to the call of malloc, which is being tracked then. A release is not: only
its entry is seen. But free maps memory too: in a thread that has allocated nothing before, glibc's
free starts with an arena of 64 MiB (free, tcache_init, arena_get2, mmap). And the library of an
allocator maps memory in its constructor and in its own threads. The program asked for none of that:
it is neither outstanding nor counted at a site. Blocks within it are counted as blocks.

A mapping is the allocator's own when its stack leads

- through the code of a hooked releasing function, including the code that its entry reaches by
  jumps, tail calls within its object, and parts that the compiler moved elsewhere;
- from a library that is only an allocator directly to the C library or the dynamic linker, which
  call constructors and start threads.

If a walk misses such a frame, the mapping is counted.
"""

from __future__ import annotations

import os
import re
import weakref
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import PurePosixPath

import numpy as np

from leaktrace.abi import process as abi
from leaktrace.cache.directory import user_cache_directory
from leaktrace.elf.object import ElfObject
from leaktrace.errors import ObjectFileError
from leaktrace.process.probes.code.flow import UnfollowableError
from leaktrace.process.probes.object_plan import ObjectPlan
from leaktrace.process.probes.release_code import ReleaseCode, release_code
from leaktrace.process.regions import RegionLedger
from leaktrace.targets.mappings import Mapping

_ALLOCATOR = re.compile(r"lib(jemalloc|tcmalloc|mimalloc)[^/]*\.so.*")
_CALLS_CONSTRUCTORS = re.compile(r"(ld-[^/]*|ld|libc|libc-[^/]*|libpthread[^/]*)\.so.*")
_UNMAPPING = abi.MAPPING_FUNCTIONS | {abi.Function.MUNMAP}


class _ReleasingCode:
    """The code of an object's releasing functions. The file is kept open, and read when the first
    stack leads there."""

    def __init__(self, plan: ObjectPlan) -> None:
        self.plan = plan
        descriptor = plan.elf.descriptor
        assert descriptor is not None  # it was opened from a file
        self._descriptor = os.dup(descriptor)
        weakref.finalize(self, os.close, self._descriptor)
        self._entries = tuple(
            probe.offset - probe.placement.offset
            for probe in plan.probes
            if not probe.hook.has_return
        )

    def holds(self, offset: int) -> bool:
        """Whether the call before a return address (an offset in the file) is in this code.

        Raises ObjectFileError and UnfollowableError.
        """
        elf, code = self._code
        vaddr = elf.offset_to_vaddr(offset - 1)
        return vaddr is not None and code.holds(vaddr + 1)

    @cached_property
    def _code(self) -> tuple[ElfObject, ReleaseCode]:
        elf = ElfObject.open(self._descriptor, self.plan.path)
        entries = [elf.offset_to_vaddr(offset) for offset in self._entries]
        known = [entry for entry in entries if entry is not None]
        return elf, release_code(elf, known, user_cache_directory())


class AllocatorsOwn:
    """Recognizes the allocators' own mappings in one process."""

    def __init__(self, addresses_of: Callable[[int], Sequence[int] | None]) -> None:
        """`addresses_of` returns the return addresses of a stack id, leaf first; None where the
        stack is not stored."""
        self._addresses_of = addresses_of
        self._code: list[_ReleasingCode] = []
        self._verdicts: dict[int, bool] = {}
        self._executable: list[Mapping] = []
        self._starts: list[int] = []
        self._ranges = RegionLedger()

    def add(self, plan: ObjectPlan) -> None:
        """An object was hooked. Its file must still be open."""
        self._code.append(_ReleasingCode(plan))
        self._verdicts.clear()

    def follow(self, mappings: Sequence[Mapping]) -> None:
        """Take over the current mappings of the process."""
        self._executable = [mapping for mapping in mappings if mapping.is_executable]
        self._starts = [mapping.start for mapping in self._executable]

    def forget(self) -> None:
        """The process has executed a program, and has a new address space."""
        self._verdicts.clear()
        self._ranges.clear()

    def is_own(self, stack_id: int) -> bool:
        """Whether what was mapped from a stack is the allocator's own."""
        known = self._verdicts.get(stack_id)
        if known is None:
            addresses = self._addresses_of(stack_id)
            if not addresses:
                return False
            places = [self._mapping_at(address - 1) for address in addresses]
            known = self._is_by_library(places) or any(
                self._is_in_release(address, place)
                for address, place in zip(addresses, places, strict=True)
                if place is not None
            )
            if known or None not in places:  # otherwise another look may show more
                self._verdicts[stack_id] = known
        return known

    def takes(self, event: np.void) -> bool:
        """Note a region that was added. Returns whether it is the allocator's own."""
        if int(event["kind"]) != abi.EventCode.REGION_ADD:
            return False
        address, size = int(event["address"]), int(event["size"])
        own = self.is_own(int(event["stack_id"]))
        if own:
            self._ranges.add(address, size, 0, 0)
        else:
            self._ranges.release(address, size)
        return own

    def hides(self, event: np.void) -> bool:
        """Whether a traced call, whose region was noted, is of a mapping of this kind."""
        function, kind = int(event["function"]), int(event["kind"])
        if kind == abi.EventCode.ALLOCATE:
            return function in abi.MAPPING_FUNCTIONS and self.is_own(int(event["stack_id"]))
        # The range stays noted, so that its unmapping is recognized too.
        is_unmapped = kind == abi.EventCode.RELEASE and function in _UNMAPPING
        return is_unmapped and self._ranges.covers(int(event["address"]), int(event["size"]))

    def _mapping_at(self, address: int) -> Mapping | None:
        index = bisect_right(self._starts, address) - 1
        if index >= 0 and address < self._executable[index].end:
            return self._executable[index]
        return None

    def _is_in_release(self, address: int, place: Mapping) -> bool:
        for code in self._code:
            if code.plan.is_mapped_as(place):
                try:
                    return code.holds(address - place.start + place.offset)
                except (ObjectFileError, UnfollowableError):
                    return False  # unknown: the mapping is counted
        return False

    @staticmethod
    def _is_by_library(places: Sequence[Mapping | None]) -> bool:
        """Whether an allocator's library maps memory without having been called by the program."""
        first = places[0]
        if first is None or not _ALLOCATOR.fullmatch(_name(first)):
            return False
        outside = next(
            (place for place in places if place is None or place.path != first.path), None
        )
        return outside is not None and bool(_CALLS_CONSTRUCTORS.fullmatch(_name(outside)))


def _name(mapping: Mapping) -> str:
    return PurePosixPath(mapping.path).name
