"""Repairs the breakpoints in the code of processes: attaches an empty probe and removes it again.

When a probe is attached, the kernel writes its breakpoint to each process that should have it, even
if one was there before. When a probe is removed, the kernel goes through all processes that have
the file mapped, and removes the breakpoint at that location from those for which no other probe is
left (kernel/events/uprobes.c: register_for_each_vma, filter_chain). So attaching and removing an
empty probe removes breakpoints that a killed tracer or a fork has left, and restores those that a
debugger has overwritten. Probes in use are not affected.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence

from leaktrace.bpf import support
from leaktrace.bpf.links import UprobeLinks
from leaktrace.process.attach.keeper import Keeper


def repair_breakpoints(
    keeper: Keeper, pid: int, path: str, offsets: Sequence[int], links: UprobeLinks
) -> None:
    """Attach empty probes at offsets of a file, for one process, and remove them.

    `links` is how the kernel attaches probes. Raises KeeperGoneError.
    """
    together = links is UprobeLinks.TOGETHER
    try:
        program = support.load_empty_program(links.attach_type)
    except OSError:
        return  # descriptors or memory are exhausted: callers see that nothing has changed

    def attach(places: Sequence[int]) -> int:
        if together:
            return keeper.attach_uprobes(program, path, places, [0] * len(places), pid=pid)
        return keeper.attach_uprobe_event(program, path, places[0], 0, pid=pid, is_return=False)

    probes: list[int] = []
    try:
        if together:
            with contextlib.suppress(OSError):
                probes.append(attach(offsets))
        if not probes:
            for offset in offsets:
                with contextlib.suppress(OSError):  # no probe can be here, so none was left
                    probes.append(attach([offset]))
    finally:
        os.close(program)
        keeper.remove(probes)
