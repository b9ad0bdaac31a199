"""Breakpoints that nobody owns: what a tracer that was killed left in the code of a process.

A probe on a function is a breakpoint in the process's own copy of a page of code. When the kernel
could not take it off (process/attach/keeper_child.py tells when), it stays, and each call of the
function costs a trap. Putting a probe at the same place and taking it off again removes it: the
kernel then writes the instruction of the file back, unless somebody else's probe is there. So a
live tracer's probes stay untouched, whoever asks (remove_breakpoint behind filter_chain,
kernel/events/uprobes.c).

A debugger's breakpoint looks the same, and would be removed, too: nothing is done while a debugger
holds the process, nor on a page that was changed in another way.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from leaktrace.arch.machines import this_machine
from leaktrace.bpf.links import UprobeLinks
from leaktrace.capabilities import Capability
from leaktrace.notices import tell
from leaktrace.process.attach.keeper import Keeper
from leaktrace.process.attach.touch import touch
from leaktrace.process.probes.plan import ObjectPlan
from leaktrace.targets.mappings import Mapping
from leaktrace.targets.memory import ProcessMemory
from leaktrace.targets.process import debugger_of

_PAGE_BYTES = os.sysconf("SC_PAGESIZE")
# Of one mapping. A process may map whatever it likes; an allocator has less code than that.
_MOST_BYTES = 1 << 30
# More of them are no tracer's doing: the code was relocated as a whole.
_MOST_COPIED_PAGES = 4096
# /proc/PID/pagemap, Documentation/admin-guide/mm/pagemap.rst
_IN_MEMORY, _SWAPPED, _OF_A_FILE = (np.uint64(1 << bit) for bit in (63, 62, 61))


@dataclass(frozen=True)
class _Found:
    """Breakpoints in the code of one object, by their offsets in its file."""

    offsets: tuple[int, ...]
    unclear: int = 0  # those on pages that are changed in other ways, too
    is_refused: bool = False  # which pages are the process's own is not for us to know


def remove_leftovers(
    pid: int,
    plans: Sequence[ObjectPlan],
    mappings: Sequence[Mapping],
    keeper: Keeper,
    way: UprobeLinks,
    *,
    verbose: bool,
) -> None:
    """Look at the objects that are about to be hooked, and say what was found and removed.

    Takes less than a millisecond where nothing is found. Raises KeeperGoneError.
    """
    for plan in plans:
        found = _breakpoints(pid, plan, mappings)
        if found.is_refused:
            tell(
                f"whether a killed tracer has left breakpoints in process {pid} can't be seen: "
                f"/proc/{pid}/pagemap takes {Capability.DAC_READ_SEARCH}"
            )
            return
        if found.unclear:
            tell(
                f"{_count(found.unclear)} in the code of {plan.name}, which is changed in other "
                "ways, too: left as they are"
            )
        if not found.offsets:
            continue
        debugger = debugger_of(pid)
        if debugger:
            tell(
                f"{_count(len(found.offsets))} in the code of {plan.name}: process {debugger} "
                "debugs it, they are left as they are"
            )
            continue
        touch(keeper, pid, plan.attach_path, found.offsets, way)
        left = set(_breakpoints(pid, plan, mappings).offsets).intersection(found.offsets)
        removed = len(found.offsets) - len(left)
        if removed:
            tell(f"removed from {plan.name}: {_count(removed)} that a killed tracer had left there")
        if left and verbose:
            tell(f"{_count(len(left))} of other tracers in {plan.name}")


def _count(breakpoints: int) -> str:
    return f"{breakpoints} breakpoint{'' if breakpoints == 1 else 's'}"


def _breakpoints(pid: int, plan: ObjectPlan, mappings: Iterable[Mapping]) -> _Found:
    """Nothing where the process's memory can't be read: it may end at any time."""
    machine = this_machine()
    descriptor = plan.elf.descriptor
    if machine is None or descriptor is None:
        return _Found(())
    instruction = np.frombuffer(machine.breakpoint, f"<u{len(machine.breakpoint)}")
    offsets: list[int] = []
    unclear = 0
    try:
        with ProcessMemory(pid) as memory:
            for mapping in plan.code_in(mappings):
                for page in _copied_pages(pid, mapping):
                    offset = mapping.offset + page - mapping.start
                    now = memory.read(page, _PAGE_BYTES)
                    original = os.pread(descriptor, len(now), offset)
                    changed, is_breakpoint = _compare(now[: len(original)], original, instruction)
                    places = offset + np.flatnonzero(is_breakpoint) * instruction.itemsize
                    if (changed & ~is_breakpoint).any():
                        unclear += len(places)
                    else:
                        offsets += places.tolist()
    except PermissionError:
        return _Found((), is_refused=True)
    except OSError:
        return _Found(())
    return _Found(tuple(sorted(set(offsets))), unclear)


def _compare(
    now: bytes, original: bytes, instruction: npt.NDArray[np.unsignedinteger]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which units of code differ, and which of them are breakpoints now."""
    whole = len(original) - len(original) % instruction.itemsize
    now_units = np.frombuffer(now[:whole], instruction.dtype)
    changed = now_units != np.frombuffer(original[:whole], instruction.dtype)
    return changed, changed & (now_units == instruction[0])


def _copied_pages(pid: int, mapping: Mapping) -> Iterator[int]:
    """Addresses of the pages that are the process's own: no longer those of the file.

    No others are read: that would bring them into the process.
    """
    count = min(mapping.end - mapping.start, _MOST_BYTES) // _PAGE_BYTES
    with Path(f"/proc/{pid}/pagemap").open("rb", buffering=0) as pagemap:
        raw = os.pread(pagemap.fileno(), 8 * count, mapping.start // _PAGE_BYTES * 8)
    entries = np.frombuffer(raw[: len(raw) // 8 * 8], np.uint64)
    is_there = (entries & (_IN_MEMORY | _SWAPPED)) != 0
    copied = np.flatnonzero(is_there & ((entries & _OF_A_FILE) == 0))
    if len(copied) <= _MOST_COPIED_PAGES:
        for index in copied.tolist():
            yield mapping.start + index * _PAGE_BYTES
