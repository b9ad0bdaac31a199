"""Mappings that the program has not asked for, recognized by their stacks: those that an allocator
makes for itself, and the stacks of threads.

What malloc maps belongs to the call of malloc, which is being tracked then. A release is not: only
its entry is seen. But free maps memory too: in a thread that has allocated nothing before, glibc's
free starts with an arena of 64 MiB (free, tcache_init, arena_get2, mmap). And the library of an
allocator maps memory in its constructor and in its own threads. The program asked for none of that:
it is neither outstanding nor counted at a site. Blocks within it are counted as blocks.

A mapping is the allocator's own when its stack leads

- through the code of a hooked releasing function, including the code that its entry reaches by
  jumps, tail calls within its object, and parts that the compiler moved elsewhere;
- from code of the allocator's object, and no other, to a function that looks after the heap:
  malloc_trim, mallopt, malloc_info and the like, and fork;
- through nothing but the C library, from where a thread starts: as it begins or ends;
- from a library that is only an allocator directly to the C library or the dynamic linker, which
  call constructors and start threads.

It is the stack of a thread when it leads from code of the C library, and no other, to
pthread_create. What the program maps in a function that one of these calls (the handlers of a fork,
destructors of a thread) leads through its own code first, and is the program's.

If a walk misses such a frame, the mapping is counted.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import PurePosixPath

import numpy as np

from leaktrace.abi import process as abi
from leaktrace.elf.object import ElfObject
from leaktrace.process.mapping_code import FunctionCode, MappingCode
from leaktrace.process.probes.object_plan import ObjectPlan
from leaktrace.process.regions import MappingCall, RegionLedger
from leaktrace.targets.mappings import Mapping

_ALLOCATOR = re.compile(r"lib(jemalloc|tcmalloc|mimalloc)[^/]*\.so.*")
_C_LIBRARY = re.compile(r"(ld-[^/]*|ld|libc|libc-[^/]*|libpthread[^/]*)\.so.*")
_UNMAPPING = abi.MAPPING_FUNCTIONS | abi.UNMAPPING_FUNCTIONS


class MappingKind(Enum):
    """Whose a mapping is."""

    PROGRAM = "program"
    ALLOCATOR = "allocator"
    THREAD_STACK = "thread stack"


class AllocatorsOwn:
    """Recognizes what the program has not asked for in one process."""

    def __init__(
        self,
        addresses_of: Callable[[int], Sequence[int] | None],
        is_complete: Callable[[int], bool],
        object_behind: Callable[[Mapping], ElfObject | None],
    ) -> None:
        """`addresses_of` returns the return addresses of a stack id, leaf first; None where the
        stack is not stored. `is_complete` says whether it was walked to its end. `object_behind`
        returns the open object of a mapping."""
        self._addresses_of = addresses_of
        self._is_complete = is_complete
        self._object_behind = object_behind
        self._code: list[tuple[ObjectPlan, MappingCode]] = []
        self._of_objects: dict[ElfObject, MappingCode] = {}
        self._verdicts: dict[int, MappingKind] = {}
        self._executable: list[Mapping] = []
        self._starts: list[int] = []
        self._ranges = RegionLedger()

    def add(self, plan: ObjectPlan) -> None:
        """An object was hooked. Its file must still be open."""
        is_library = _C_LIBRARY.fullmatch(PurePosixPath(plan.path).name) is not None
        self._code.append((plan, MappingCode.of_plan(plan, is_library=is_library)))
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
        return self._kind_of(stack_id) is MappingKind.ALLOCATOR

    def is_thread_stack(self, stack_id: int) -> bool:
        """Whether what was mapped from a stack is the stack of a thread."""
        return self._kind_of(stack_id) is MappingKind.THREAD_STACK

    def _kind_of(self, stack_id: int) -> MappingKind:
        known = self._verdicts.get(stack_id)
        if known is None:
            addresses = self._addresses_of(stack_id)
            if not addresses:
                return MappingKind.PROGRAM
            places = [self._mapping_at(address - 1) for address in addresses]
            known = self._judge(stack_id, addresses, places)
            # Otherwise another look may show more.
            if known is not MappingKind.PROGRAM or None not in places:
                self._verdicts[stack_id] = known
        return known

    def _judge(
        self, stack_id: int, addresses: Sequence[int], places: Sequence[Mapping | None]
    ) -> MappingKind:
        frames = list(zip(addresses, places, strict=True))
        if self._is_by_library(places) or any(self._is_in_release(*frame) for frame in frames):
            return MappingKind.ALLOCATOR
        first = places[0]
        if first is None:
            return MappingKind.PROGRAM
        plan, code = self._code_of(first)
        if code is not None:
            for address, place in frames:
                if place is None or (place.device, place.inode) != (first.device, first.inode):
                    break
                if _is_in(code.creating_threads, address, place):
                    return MappingKind.THREAD_STACK
                if plan is not None and _is_in(code.caring, address, place):
                    return MappingKind.ALLOCATOR
        is_only_library = all(place is not None and _is_c_library(place) for place in places)
        if is_only_library and self._is_complete(stack_id):
            return MappingKind.ALLOCATOR
        return MappingKind.PROGRAM

    def _code_of(self, place: Mapping) -> tuple[ObjectPlan | None, MappingCode | None]:
        """The code of a hooked object; or of another part of the C library."""
        for plan, code in self._code:
            if plan.is_mapped_as(place):
                return plan, code
        elf = self._object_behind(place) if _is_c_library(place) else None
        if elf is None:
            return None, None
        return None, self._of_objects.setdefault(elf, MappingCode.of_object(elf))

    def takes(self, event: np.void) -> bool:
        """Note a region that was added. Returns whether it is the allocator's own."""
        if int(event["kind"]) != abi.EventCode.REGION_ADD:
            return False
        address, size = int(event["address"]), int(event["size"])
        own = self.is_own(int(event["stack_id"]))
        if own:
            self._ranges.add(MappingCall(address, size, 0, 0))
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

    def _is_in_release(self, address: int, place: Mapping | None) -> bool:
        return place is not None and any(
            plan.is_mapped_as(place) and _is_in(code.releasing, address, place)
            for plan, code in self._code
        )

    @staticmethod
    def _is_by_library(places: Sequence[Mapping | None]) -> bool:
        """Whether an allocator's library maps memory without having been called by the program."""
        first = places[0]
        if first is None or not _ALLOCATOR.fullmatch(_name(first)):
            return False
        outside = next(
            (place for place in places if place is None or place.path != first.path), None
        )
        return outside is not None and _is_c_library(outside)


def _name(mapping: Mapping) -> str:
    return PurePosixPath(mapping.path).name


def _is_c_library(mapping: Mapping) -> bool:
    return _C_LIBRARY.fullmatch(_name(mapping)) is not None


def _is_in(code: FunctionCode, address: int, place: Mapping) -> bool:
    return code.holds(address - place.start + place.offset)
