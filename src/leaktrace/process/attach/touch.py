"""Probes put on and taken off at once: what the kernel does then mends the code of processes.

When a probe is taken off, the kernel goes through all processes that have the file mapped, and
takes the breakpoint at that place out of those for which no probe is left; and when one is put on,
it writes the breakpoint again where the process should have it (kernel/events/uprobes.c:
register_for_each_vma, filter_chain). So this removes what a killed tracer, or a fork, has left, and
puts back what a debugger has overwritten, without touching probes that are in use.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence

from leaktrace.bpf import support
from leaktrace.bpf.links import UprobeLinks
from leaktrace.process.attach.keeper import Keeper


def touch(keeper: Keeper, pid: int, path: str, offsets: Sequence[int], way: UprobeLinks) -> None:
    """Put empty probes at these offsets of a file, for one process, and take them off.

    Raises KeeperGoneError.
    """
    together = way is UprobeLinks.TOGETHER
    try:
        program = support.load_empty_program(way.attach_type)
    except OSError:
        return  # no descriptor or no memory is left: the callers see that nothing has changed

    def put(places: Sequence[int]) -> int:
        if together:
            return keeper.attach_uprobes(program, path, places, [0] * len(places), pid=pid)
        return keeper.attach_uprobe_event(program, path, places[0], 0, pid=pid, is_return=False)

    probes: list[int] = []
    try:
        if together:
            with contextlib.suppress(OSError):
                probes.append(put(offsets))
        if not probes:
            for offset in offsets:
                with contextlib.suppress(OSError):  # where no probe can be, none was left
                    probes.append(put([offset]))
    finally:
        os.close(program)
        keeper.take_off(probes)
