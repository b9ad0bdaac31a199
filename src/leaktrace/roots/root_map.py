"""What the memory of a process is, outside of blocks: variables, stacks, thread-local storage,
memory of malloc without a record, mapped memory. So a word that points to a block can be said to be
part of something that has a name.

The map is made of ranges. Where two overlap, the later kind counts: a thread's storage is in
memory that was mapped.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from leaktrace.analysis.reachability.kept_details import KeptRoots, RootRank
from leaktrace.reach import HolderKind, HolderStep
from leaktrace.roots.module_data import ModuleData
from leaktrace.roots.stack_frames import StackFrames
from leaktrace.roots.threads_data import ThreadData
from leaktrace.symbols.demangle import demangle
from leaktrace.targets.mappings import Mapping
from leaktrace.targets.page_map import Range
from leaktrace.targets.root_pages import is_shared_memory
from leaktrace.targets.thread_registers import Registers

REGISTERS = 1 << 63  # the first of the numbers that stand for addresses of registers
_NEAR_BYTES = 64  # unnamed words that are no farther apart are of one thing, such as an array
_MOST_RANGES = 1 << 18

_RANKS = {
    HolderKind.VARIABLE: RootRank.VARIABLE,
    HolderKind.DATA: RootRank.VARIABLE,
    HolderKind.TLS: RootRank.VARIABLE,
    HolderKind.STACK: RootRank.THREAD,
    HolderKind.REGISTER: RootRank.THREAD,
}


def places_of_registers(threads: Registers) -> NDArray[np.uint64]:
    """What stands for the addresses of their words."""
    return np.uint64(REGISTERS) + np.arange(threads.words.size, dtype=np.uint64)


# The owners of words by their addresses, and how far into their owner they are, in bytes.
Owned = tuple[list[HolderStep], NDArray[np.int32], NDArray[np.int64]]


@dataclass(frozen=True)
class NamedRoots:
    """The owners of roots, each a step of paths; the roots with their ranks, and parallel to them
    the numbers of their owners and how far into these they are, in bytes."""

    owners: list[HolderStep]
    roots: KeptRoots
    numbers: NDArray[np.int32]
    offsets: NDArray[np.int64]


@dataclass(frozen=True)
class _Part:
    """What some ranges have in common."""

    kind: HolderKind  # as far as it is known without looking for names
    owned: Callable[[NDArray[np.uint64]], Owned]


class RootMap:
    """Which part each address is in."""

    def __init__(
        self,
        mappings: Sequence[Mapping],
        heaps: Sequence[Range],
        modules: Sequence[ModuleData],
        program: ModuleData | None,
        *,
        threads: Sequence[ThreadData],
        registers: Registers,
        frames: StackFrames,
    ) -> None:
        """`heaps`: memory of malloc without mappings of its own; `program`: one of the modules."""
        parts: list[tuple[Range, _Part]] = []
        data_of = _data_of_objects(mappings, {module.path for module in modules})
        for one in mappings[:_MOST_RANGES]:
            parts.append(((one.start, one.end), _part_of_mapping(one, data_of.get(one.start))))
        heap = _alone(HolderStep(HolderKind.UNTRACKED))
        parts += [(one, heap) for one in heaps]
        for module in modules:
            part = _Part(HolderKind.VARIABLE, _owner_in(module))
            parts += [(one, part) for one in module.ranges()]
        for thread in threads:
            parts += _parts_of_thread(thread, program, frames)
        words = max(registers.words.shape[1], 1)
        names = {one.tid: one.name for one in threads}
        for row, tid in enumerate(registers.tids.tolist()):
            step = HolderStep(HolderKind.REGISTER, thread=tid, thread_name=names.get(tid))
            first = REGISTERS + row * words
            parts.append(((first, first + words), _alone(step)))
        self._parts = [part for _, part in parts]
        self._cuts, self._at = _painted([one for one, _ in parts])
        ranks = [_RANKS.get(part.kind, RootRank.OTHER) for part in self._parts]
        self._ranks = np.array([*ranks, RootRank.OTHER], dtype=np.uint8)

    def rank_of(self, addresses: NDArray[np.uint64]) -> NDArray[np.uint8]:
        """The RootRank of each address, as far as it is known without looking for names."""
        ranks: NDArray[np.uint8] = self._ranks[self._part_at(addresses)]
        return ranks

    def name(self, roots: KeptRoots) -> NamedRoots:
        """Who owns these words."""
        owners: list[HolderStep] = []
        numbers = np.zeros(len(roots.addresses), dtype=np.int32)
        offsets = np.zeros(len(roots.addresses), dtype=np.int64)
        parts = self._part_at(roots.addresses)
        for part, rows in _groups(parts):
            addresses = roots.addresses[rows]
            if part == len(self._parts):  # it was mapped since
                found, of, at = _alone(HolderStep(HolderKind.MAPPING)).owned(addresses)
            else:
                found, of, at = self._parts[part].owned(addresses)
            numbers[rows] = of + len(owners)
            offsets[rows] = at
            owners += found
        ranks = [_RANKS.get(one.kind, RootRank.OTHER) for one in owners]
        known = np.array(ranks, dtype=np.uint8)[numbers] if owners else roots.ranks
        owners, numbers = _unique(owners, numbers)
        return NamedRoots(owners, replace(roots, ranks=known), numbers, offsets)

    def _part_at(self, addresses: NDArray[np.uint64]) -> NDArray[np.int64]:
        at = np.searchsorted(self._cuts, addresses, side="right") - 1
        found: NDArray[np.int64] = np.where(at >= 0, self._at[at], len(self._parts))
        return found


def _painted(ranges: Sequence[Range]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Ranges that may overlap as disjoint ones: where each begins, and which of `ranges` it belongs
    to, the last of several; len(ranges) for none."""
    bounds = np.array(ranges, dtype=np.uint64).reshape(-1, 2)
    cuts = np.unique(bounds)
    lows, highs = np.searchsorted(cuts, bounds[:, 0]), np.searchsorted(cuts, bounds[:, 1])
    at = np.full(max(len(cuts), 1), len(ranges), dtype=np.int64)
    for number, (low, high) in enumerate(zip(lows.tolist(), highs.tolist(), strict=True)):
        at[low:high] = number
    return cuts, at


def _groups(numbers: NDArray[np.integer]) -> Iterator[tuple[int, NDArray[np.intp]]]:
    """Each number with its rows."""
    order = np.argsort(numbers, kind="stable")
    found, first = np.unique(numbers[order], return_index=True)
    yield from zip(found.tolist(), np.split(order, first[1:]), strict=False)


def _unique(
    owners: list[HolderStep], numbers: NDArray[np.int32]
) -> tuple[list[HolderStep], NDArray[np.int32]]:
    """The same owner once, although several ranges have it."""
    known: dict[HolderStep, int] = {}
    renamed = [known.setdefault(one, len(known)) for one in owners]
    return list(known), np.array(renamed, dtype=np.int32)[numbers] if owners else numbers


def _alone(step: HolderStep, start: int | None = None) -> _Part:
    """A part without smaller ones. `start`: where it begins, None: that says nothing."""

    def owned(addresses: NDArray[np.uint64]) -> Owned:
        offsets = np.full(len(addresses), -1, dtype=np.int64)
        if start is not None:
            offsets = (addresses - np.uint64(start)).astype(np.int64)
        return [step], np.zeros(len(addresses), dtype=np.int32), offsets

    return _Part(step.kind, owned)


def _data_of_objects(mappings: Sequence[Mapping], opened: Container[str]) -> dict[int, str]:
    """Where data of programs and libraries is mapped, with the path of the object; of those that
    are not `opened`, also the memory behind it, which may be more than .bss: the kernel joins
    anonymous mappings that touch."""
    objects = {one.path for one in mappings if one.is_file and one.is_executable}
    found: dict[int, str] = {}
    before, end = "", 0
    for one in mappings:
        is_data = one.permissions.startswith("rw") and one.permissions.endswith("p")
        if one.is_file:
            path = one.path if one.path in objects else ""
        else:
            path = before if one.start == end and not one.path and before not in opened else ""
        if is_data and path:
            found[one.start] = path
        before, end = path if is_data and one.is_file else "", one.end
    return found


def _part_of_mapping(one: Mapping, data_of: str | None) -> _Part:
    if data_of is not None:
        name = None if one.is_file else ".bss"
        return _alone(HolderStep(HolderKind.DATA, name=name, module=data_of), one.start)
    if one.path == "[heap]":
        return _alone(HolderStep(HolderKind.UNTRACKED))
    kind = HolderKind.SHARED if is_shared_memory(one) else HolderKind.MAPPING
    return _alone(HolderStep(kind, name=one.path or f"{one.start:#x}"), one.start)


def _parts_of_thread(
    thread: ThreadData, program: ModuleData | None, frames: StackFrames
) -> list[tuple[Range, _Part]]:
    stack = HolderStep(HolderKind.STACK, thread=thread.tid, thread_name=thread.name)
    tls = replace(stack, kind=HolderKind.TLS)
    own = _alone(tls)
    if program is not None:
        own = _Part(HolderKind.TLS, _thread_local_in(program, thread.own_tls[0], tls))
    parts = [
        (thread.stack, _Part(HolderKind.STACK, _frames_of(frames, stack))),
        (thread.other_tls, _alone(tls)),
        (thread.control_block, _alone(tls)),
        (thread.own_tls, own),
    ]
    return [(one, part) for one, part in parts if one[0] < one[1]]


def _owner_in(module: ModuleData) -> Callable[[NDArray[np.uint64]], Owned]:
    """Which variable of a module each word is in. Words without one are of one thing if they lie
    close together."""

    def owned(addresses: NDArray[np.uint64]) -> Owned:
        vaddrs = module.to_file(addresses)
        found = module.variables.find(vaddrs)
        owners: list[HolderStep] = []
        numbers = np.zeros(len(addresses), dtype=np.int32)
        offsets = np.zeros(len(addresses), dtype=np.int64)
        for variable, rows in _groups(found):
            if variable < 0:
                continue
            name = demangle(module.variables.name(variable))
            start = module.variables.start(variable)
            numbers[rows] = len(owners)
            offsets[rows] = (vaddrs[rows] - np.uint64(start)).astype(np.int64)
            # Two static variables may have one name, but not one place.
            step = HolderStep(HolderKind.VARIABLE, name=name, module=module.path)
            owners.append(replace(step, module_offset=start))
        rows = np.nonzero(found < 0)[0]
        rows = rows[np.argsort(vaddrs[rows], kind="stable")]
        begins = np.concatenate([[True], np.diff(vaddrs[rows]) > np.uint64(_NEAR_BYTES)])
        groups = np.cumsum(begins[: len(rows)]) - 1
        starts = vaddrs[rows][begins[: len(rows)]]
        numbers[rows] = groups + len(owners)
        offsets[rows] = (vaddrs[rows] - starts[groups]).astype(np.int64)
        owners += [
            HolderStep(
                HolderKind.DATA,
                name=module.section_at(start) or None,
                module=module.path,
                module_offset=start,
            )
            for start in starts.tolist()
        ]
        return owners, numbers, offsets

    return owned


def _thread_local_in(
    module: ModuleData, start: int, step: HolderStep
) -> Callable[[NDArray[np.uint64]], Owned]:
    """Which thread-local variable of the program each word is in. `start`: of its storage."""

    def owned(addresses: NDArray[np.uint64]) -> Owned:
        places = addresses - np.uint64(start)
        found = module.thread_locals.find(places)
        owners = [replace(step, module=module.path)]
        numbers = np.zeros(len(addresses), dtype=np.int32)
        offsets = places.astype(np.int64)
        for variable, rows in _groups(found):
            if variable < 0:
                continue
            first = module.thread_locals.start(variable)
            name = demangle(module.thread_locals.name(variable))
            numbers[rows] = len(owners)
            offsets[rows] = (places[rows] - np.uint64(first)).astype(np.int64)
            owners.append(replace(step, name=name, module=module.path))
        return owners, numbers, offsets

    return owned


def _frames_of(frames: StackFrames, step: HolderStep) -> Callable[[NDArray[np.uint64]], Owned]:
    """Which call of a thread each word on its stack belongs to."""

    def owned(addresses: NDArray[np.uint64]) -> Owned:
        assert step.thread is not None
        found = frames.of(step.thread)
        offsets = np.full(len(addresses), -1, dtype=np.int64)
        numbers = np.zeros(len(addresses), dtype=np.int32)
        owners = [step]
        if found is not None:
            at = found.at(addresses)
            for frame, rows in _groups(at):
                if frame < 0:
                    continue
                numbers[rows] = len(owners)
                owners.append(replace(step, code_address=found.code[frame]))
        return owners, numbers, offsets

    return owned
