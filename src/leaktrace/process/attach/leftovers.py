"""Breakpoints that a killed tracer left in the code of a process.

A probe on a function is a breakpoint in the process's own copy of a page of code. If the kernel
could not remove it (process/attach/keeper_child.py explains when), it stays, and each call of the
function costs a trap. Attaching a probe at the same location and removing it removes the leftover:
the kernel restores the instruction of the file, unless another tracer's probe is there. So the
probes of running tracers are not affected (filter_chain and remove_breakpoint,
kernel/events/uprobes.c).

A debugger's breakpoint looks the same, and would be removed too. So nothing is removed while a
debugger is attached to the process, nor from a page that was changed in other ways.
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
from leaktrace.notices import notify
from leaktrace.process.attach.keeper import Keeper
from leaktrace.process.attach.repair import repair_breakpoints
from leaktrace.process.probes.object_plan import ObjectPlan
from leaktrace.targets.mappings import Mapping
from leaktrace.targets.memory import ProcessMemory
from leaktrace.targets.process import debugger_of

_PAGE_BYTES = os.sysconf("SC_PAGESIZE")
# Bytes that are read of one mapping. A process may map more, but no allocator has as much code.
_MAX_BYTES = 1 << 30
# If there are more, all of the code was relocated; tracers don't cause that.
_MAX_COPIED_PAGES = 4096
# /proc/PID/pagemap, Documentation/admin-guide/mm/pagemap.rst
_IN_MEMORY, _SWAPPED, _OF_A_FILE = (np.uint64(1 << bit) for bit in (63, 62, 61))


@dataclass(frozen=True)
class _Found:
    """Breakpoints in the code of one object, by their offsets in its file."""

    offsets: tuple[int, ...]
    unclear: int = 0  # how many more are on pages that were also changed in other ways
    is_refused: bool = False  # the kernel doesn't show which pages are the process's own


def remove_leftovers(
    pid: int,
    plans: Sequence[ObjectPlan],
    mappings: Sequence[Mapping],
    keeper: Keeper,
    links: UprobeLinks,
    *,
    verbose: bool,
) -> None:
    """Remove leftover breakpoints from the objects that are about to be hooked, and report them.

    Takes less than a millisecond if there are none. Raises KeeperGoneError.
    """
    for plan in plans:
        found = _breakpoints(pid, plan, mappings)
        if found.is_refused:
            notify(
                f"can't check whether a killed tracer left breakpoints in process {pid}: "
                f"reading /proc/{pid}/pagemap takes {Capability.DAC_READ_SEARCH}"
            )
            return
        if found.unclear:
            notify(
                f"{_count(found.unclear)} in the code of {plan.name}, which was changed in "
                "other ways too: left as they are"
            )
        if not found.offsets:
            continue
        debugger = debugger_of(pid)
        if debugger:
            notify(
                f"{_count(len(found.offsets))} in the code of {plan.name}: left as they are, "
                f"because process {debugger} debugs it"
            )
            continue
        repair_breakpoints(keeper, pid, plan.attach_path, found.offsets, links)
        left = set(_breakpoints(pid, plan, mappings).offsets).intersection(found.offsets)
        removed = len(found.offsets) - len(left)
        if removed:
            notify(f"removed from {plan.name}: {_count(removed)} that a killed tracer had left")
        if left and verbose:
            what = f"{_count(len(left))} in {plan.name}"
            notify(f"{what}: another tracer, or another leaktrace, is attached")


def _count(breakpoints: int) -> str:
    return f"{breakpoints} breakpoint{'' if breakpoints == 1 else 's'}"


def _breakpoints(pid: int, plan: ObjectPlan, mappings: Iterable[Mapping]) -> _Found:
    """The breakpoints in one object; none if the process has ended."""
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
    """Which units of code differ from the file, and which of those are breakpoints."""
    whole = len(original) - len(original) % instruction.itemsize
    now_units = np.frombuffer(now[:whole], instruction.dtype)
    changed = now_units != np.frombuffer(original[:whole], instruction.dtype)
    return changed, changed & (now_units == instruction[0])


def _copied_pages(pid: int, mapping: Mapping) -> Iterator[int]:
    """Addresses of the pages that are the process's own copies, no longer the file's.

    Other pages aren't read: that would map them into the process.
    """
    count = min(mapping.end - mapping.start, _MAX_BYTES) // _PAGE_BYTES
    with Path(f"/proc/{pid}/pagemap").open("rb", buffering=0) as pagemap:
        raw = os.pread(pagemap.fileno(), 8 * count, mapping.start // _PAGE_BYTES * 8)
    entries = np.frombuffer(raw[: len(raw) // 8 * 8], np.uint64)
    is_there = (entries & (_IN_MEMORY | _SWAPPED)) != 0
    copied = np.flatnonzero(is_there & ((entries & _OF_A_FILE) == 0))
    if len(copied) <= _MAX_COPIED_PAGES:
        for index in copied.tolist():
            yield mapping.start + index * _PAGE_BYTES
