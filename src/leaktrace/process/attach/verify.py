"""Whether the code that a process runs is the code that was looked at: its file's.

The kernel carries out the instruction of the file when a probe is hit. Where a process has patched
its own code (a hook written over the beginning of malloc), that would be another one than stands
there, and the process would go on in the middle of what it has put there. Such functions are left
alone.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from leaktrace.arch.machines import is_decoded
from leaktrace.errors import system_error
from leaktrace.process.probes.allocators import REQUIRED, Hook
from leaktrace.process.probes.plan import LeftOut, ObjectPlan
from leaktrace.targets.mappings import Mapping as MemoryMapping
from leaktrace.targets.memory import ProcessMemory
from leaktrace.targets.process import is_running

BREAKPOINT = 0xCC  # int3: a probe's, other tracers', debuggers'
_LOOKED_AT_BYTES = 15  # the longest instruction
_REASON = "its code in memory is not that of its file"
_UNREAD = "its code in memory can't be read"
_BESIDE = "malloc or a release of this object is left out"


def verified(plan: ObjectPlan, pid: int, mappings: Sequence[MemoryMapping]) -> ObjectPlan:
    """The plan without functions whose code was changed in memory, at a probe or at their entry;
    without any, where malloc or a release is among them: figures would be wrong."""
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
            return plan  # to be told when its functions are to be hooked
        return _without(plan, dict.fromkeys(hooks, _UNREAD))
    reasons = {hook: _REASON for hook in hooks if hook in changed}
    if any(hook.symbol in REQUIRED or not hook.has_return for hook in reasons):
        reasons = {hook: reasons.get(hook, _BESIDE) for hook in hooks}
    return _without(plan, reasons)


def _without(plan: ObjectPlan, reasons: Mapping[Hook, str]) -> ObjectPlan:
    """The plan without some hooks, and why."""
    if not reasons:
        return plan
    return replace(
        plan,
        probes=tuple(one for one in plan.probes if one.hook not in reasons),
        followed=tuple(one for one in plan.followed if one.hook not in reasons),
        left_out=(*plan.left_out, *(LeftOut(hook, reason) for hook, reason in reasons.items())),
    )


def without_return_probes(plan: ObjectPlan, reason: str) -> ObjectPlan:
    """The plan without functions that could only be followed by a return probe."""
    return _without(plan, {one.hook: reason for one in plan.probes if one.hook.has_return})


def is_patched(
    memory: ProcessMemory, file: int, code: Iterable[MemoryMapping], offset: int
) -> bool:
    """Whether an instruction of a file is another one in a process, and not for a breakpoint.
    `file` is a descriptor; `code`: where the process has the file.

    Raises OSError where the memory can't be read.
    """
    for mapping in code:
        address = mapping.address_of(offset)
        if address is not None:
            size = min(_LOOKED_AT_BYTES, mapping.end - address)
            original = os.pread(file, size, offset)
            now = memory.read(address, len(original))
            if len(now) < len(original):
                raise system_error(errno.EFAULT)
            pairs = zip(now, original, strict=True)
            return any(byte not in (before, BREAKPOINT) for byte, before in pairs)
    return False
