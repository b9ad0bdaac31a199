"""Whether the code that a process runs is the code that was looked at: its file's.

The kernel carries out the instruction of the file when a probe is hit. Where a process has patched
its own code (a hook written over the beginning of malloc), that would be another one than stands
there, and the process would go on in the middle of what it has put there. Such functions are left
alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from leaktrace.probes.allocators import REQUIRED
from leaktrace.probes.plan import LeftOut, ObjectPlan
from leaktrace.target.mappings import Mapping

_BREAKPOINT = 0xCC  # int3: other tracers', debuggers'
_LOOKED_AT_BYTES = 15  # the longest instruction
_REASON = "its code in memory is not that of its file"


def verified(plan: ObjectPlan, pid: int, mappings: Sequence[Mapping]) -> ObjectPlan:
    """The plan without functions whose code was changed in memory, at a probe or at their entry;
    without any, where malloc or a release is among them: figures would be wrong."""
    code = [m for m in mappings if m.is_executable and plan.is_mapped_as(m)]
    if plan.elf.machine != "EM_X86_64" or not code:
        return plan
    changed: list[LeftOut] = []
    with suppress(OSError), Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:

        def is_changed(offsets: Iterable[int]) -> bool:
            descriptor = plan.elf.descriptor
            assert descriptor is not None  # it was opened from a file
            return any(is_patched(memory.fileno(), descriptor, code, one) for one in offsets)

        probes = [
            probe
            for probe in plan.probes
            if not is_changed((probe.offset, probe.offset - probe.placement.offset))
        ]
        followed = [
            one
            for one in plan.followed
            if not is_changed((one.entry_offset, *(probe.offset for probe in one.probes)))
        ]
        kept = {*(one.hook for one in probes), *(one.hook for one in followed)}
        hooks = [*(one.hook for one in plan.probes), *(one.hook for one in plan.followed)]
        changed = [LeftOut(hook, _REASON) for hook in hooks if hook not in kept]
        if any(one.hook.symbol in REQUIRED or not one.hook.has_return for one in changed):
            probes, followed = [], []
        if changed:
            return replace(
                plan,
                probes=tuple(probes),
                followed=tuple(followed),
                left_out=(*plan.left_out, *changed),
            )
    return plan


def without_return_probes(plan: ObjectPlan, reason: str) -> ObjectPlan:
    """The plan without functions that could only be followed by a return probe."""
    awaited = [probe for probe in plan.probes if probe.hook.has_return]
    return replace(
        plan,
        probes=tuple(probe for probe in plan.probes if not probe.hook.has_return),
        left_out=(*plan.left_out, *(LeftOut(probe.hook, reason) for probe in awaited)),
    )


def is_patched(memory: int, file: int, code: Iterable[Mapping], offset: int) -> bool:
    """Whether an instruction of a file is another one in a process, and not for a breakpoint.
    `memory` and `file` are descriptors; `code`: where the process has the file."""
    for mapping in code:
        left = mapping.offset + mapping.end - mapping.start - offset
        if mapping.offset <= offset and left > 0:
            size = min(_LOOKED_AT_BYTES, left)
            now = os.pread(memory, size, mapping.start + offset - mapping.offset)
            original = os.pread(file, size, offset)
            pairs = zip(now, original, strict=False)
            return any(byte not in (before, _BREAKPOINT) for byte, before in pairs)
    return False
