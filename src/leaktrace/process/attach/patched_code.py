"""Finds functions whose code in memory differs from the file's: such functions get no probes.

When a probe is hit, the kernel executes the instruction of the file. If the process has patched its
own code (a hook written over the entry of malloc), that instruction differs from the one in memory,
and the process would continue in the middle of its patch.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from leaktrace.arch.machines import is_decoded
from leaktrace.arch.x86_64 import INT3, MAX_INSTRUCTION_BYTES
from leaktrace.errors import system_error
from leaktrace.process.probes.allocators import Hook
from leaktrace.process.probes.object_plan import LeftOut, ObjectPlan
from leaktrace.targets.mappings import Mapping as MemoryMapping
from leaktrace.targets.memory import ProcessMemory
from leaktrace.targets.process import is_running

_PATCHED = "its code in memory is not that of its file"
_UNREADABLE = "its code in memory can't be read"
_REQUIRED_LEFT_OUT = "malloc or a release of this object is left out"


def verified(plan: ObjectPlan, pid: int, mappings: Sequence[MemoryMapping]) -> ObjectPlan:
    """The plan without the functions whose code was changed in memory, at a probe or at their
    entry. If malloc or a release is among them, all functions are left out: figures would be
    wrong."""
    code = plan.code_in(mappings)
    if not is_decoded(plan.elf.machine) or not code:
        return plan
    descriptor = plan.elf.descriptor
    assert descriptor is not None  # it was opened from a file
    hooks = [*(one.hook for one in plan.probes), *(one.hook for one in plan.followed)]
    try:
        with ProcessMemory(pid) as memory:

            def is_changed(offsets: Iterable[int]) -> bool:
                return any(is_patched(memory, descriptor, code, one) for one in offsets)

            changed = {
                one.hook
                for one in plan.probes
                if is_changed((one.offset, one.offset - one.placement.offset))
            } | {
                one.hook
                for one in plan.followed
                if is_changed((one.entry_offset, *(probe.offset for probe in one.probes)))
            }
    except OSError:
        if not is_running(pid):
            return plan  # attaching the probes will report that
        return _without(plan, dict.fromkeys(hooks, _UNREADABLE))
    reasons = {hook: _PATCHED for hook in hooks if hook in changed}
    if any(hook.is_required or not hook.has_return for hook in reasons):
        reasons = {hook: reasons.get(hook, _REQUIRED_LEFT_OUT) for hook in hooks}
    return _without(plan, reasons)


def _without(plan: ObjectPlan, reasons: Mapping[Hook, str]) -> ObjectPlan:
    """The plan without some hooks, which are listed as left out with these reasons."""
    if not reasons:
        return plan
    return replace(
        plan,
        probes=tuple(one for one in plan.probes if one.hook not in reasons),
        followed=tuple(one for one in plan.followed if one.hook not in reasons),
        left_out=(*plan.left_out, *(LeftOut(hook, reason) for hook, reason in reasons.items())),
    )


def without_return_probes(plan: ObjectPlan, reason: str) -> ObjectPlan:
    """The plan without the functions that need a return probe."""
    return _without(plan, {one.hook: reason for one in plan.probes if one.hook.has_return})


def is_patched(
    memory: ProcessMemory, file: int, code: Iterable[MemoryMapping], offset: int
) -> bool:
    """Whether an instruction in memory differs from the file's, not counting breakpoints.
    `file` is a descriptor, `code` the process's mappings of the file.

    Raises OSError when the memory can't be read.
    """
    for mapping in code:
        address = mapping.address_of(offset)
        if address is not None:
            size = min(MAX_INSTRUCTION_BYTES, mapping.end - address)
            original = os.pread(file, size, offset)
            now = memory.read(address, len(original))
            if len(now) < len(original):
                raise system_error(errno.EFAULT)
            pairs = zip(now, original, strict=True)
            return any(byte not in (before, INT3) for byte, before in pairs)
    return False
