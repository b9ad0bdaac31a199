"""Where the probes of a process would be, and what a hit of each costs: `leaktrace doctor -p`."""

from __future__ import annotations

import json
from collections.abc import Iterator

from leaktrace.options import ObjectChoice
from leaktrace.probes.plan import ObjectPlan, Planner, Probe
from leaktrace.symbols.names import printable
from leaktrace.target.process import Process


def plans_of(pid: int) -> list[ObjectPlan]:
    """The plans of a running process, their files closed. Raises TargetError."""
    process = Process(pid)
    try:
        plans = Planner(ObjectChoice()).plan_process(pid)
    finally:
        process.close()
    for plan in plans:
        plan.elf.close()
    return plans


def traps(probe: Probe) -> int:
    """Traps into the kernel for each call: at the probe, one more where its instruction is
    single-stepped, and one at the return."""
    at_probe = 1 if probe.placement.emulated else 2
    return at_probe + (1 if probe.hook.has_return else 0)


def probe_lines(pid: int) -> Iterator[str]:
    """A table an object: function, where in it, the instruction there, traps a call, and why it is
    not on a cheaper one."""
    plans = plans_of(pid)
    if not plans:
        yield f"no object of process {pid} defines malloc and free: try --faults"
    for plan in plans:
        yield printable(plan.path)
        for probe in plan.probes:
            place = probe.placement
            line = (
                f"  {probe.hook.symbol:<24} +{place.offset:<3} {place.instruction:<28} "
                f"{traps(probe)} trap{'s' if traps(probe) > 1 else ''} a call"
            )
            yield f"{line}  ({place.reason})" if place.reason else line


def probes_to_json(pid: int) -> str:
    """The same as one JSON object, schema leaktrace/probes/1."""
    return json.dumps(
        {
            "schema": "leaktrace/probes/1",
            "pid": pid,
            "probes": [
                {
                    "object": printable(plan.path),
                    "function": probe.hook.symbol,
                    "file_offset": probe.offset,
                    "offset": probe.placement.offset,
                    "instruction": probe.placement.instruction,
                    "emulated": probe.placement.emulated,
                    "has_return": probe.hook.has_return,
                    "traps": traps(probe),
                    "reason": probe.placement.reason,
                }
                for plan in plans_of(pid)
                for probe in plan.probes
            ],
        },
        indent=2,
    )
