"""Where the probes of a process would be, and what each hit costs: `leaktrace doctor -p`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from leaktrace.abi.process import Action
from leaktrace.capabilities import PURPOSES, missing_for_probes
from leaktrace.errors import TargetAccessError
from leaktrace.model import Remark
from leaktrace.options import ObjectChoice
from leaktrace.printable import printable
from leaktrace.process.probes.object_plan import Followed, ObjectPlan, Probe, best_way
from leaktrace.process.probes.planner import Planner
from leaktrace.targets.access import require_access
from leaktrace.targets.mapped_files import UnreachableFileError
from leaktrace.targets.process import Process


@dataclass(frozen=True)
class Obstacle:
    """What prevents tracing a process, or some of its objects. `capability` would permit it."""

    message: str
    capability: str = ""
    blocks: bool = False  # the process as a whole


@dataclass(frozen=True)
class Outlook:
    """Where the probes of a process would be, and what prevents some or all of them."""

    plans: tuple[ObjectPlan, ...]  # their files are closed
    obstacles: tuple[Obstacle, ...]
    unhooked: tuple[Remark, ...]  # allocators that aren't hooked

    @property
    def is_blocked(self) -> bool:
        """Whether the process can't be traced because a privilege is missing."""
        return any(one.blocks for one in self.obstacles)


def outlook_of(pid: int) -> Outlook:
    """The outlook for a running process, as for -p. Raises TargetError when it has ended."""
    obstacles = [
        Obstacle(f"{one} is missing, for {PURPOSES[one]}", one, blocks=True)
        for one in missing_for_probes()
    ]
    process = Process(pid)
    planner = Planner(ObjectChoice(), way=best_way())
    try:
        require_access(pid)
        plans = planner.plan_process(pid)
    except TargetAccessError as error:
        obstacles.append(Obstacle(error.message, error.capability, blocks=True))
        plans = []
    finally:
        process.close()
    for plan in plans:
        plan.elf.close()
    for one in planner.passed_over:
        lacking = one.error.capability if isinstance(one.error, UnreachableFileError) else None
        blocks = lacking is not None and not plans
        obstacles.append(Obstacle(one.error.message, lacking or "", blocks=blocks))
    assert planner.survey is not None  # nothing was chosen
    unhooked = tuple(planner.survey.remarks(lambda _: True))
    return Outlook(tuple(plans), tuple(obstacles), unhooked)


def traps(probe: Probe) -> int:
    """Traps into the kernel per call: one at the probe, one more if its instruction is
    single-stepped, and one at the return."""
    return _traps_at(probe.placement.emulated) + (1 if probe.hook.has_return else 0)


def _traps_at(emulated: bool) -> int:
    return 1 if emulated else 2


def _cost(emulated: bool) -> str:
    return "1 trap" if emulated else "2 traps"


def probe_lines(outlook: Outlook, pid: int) -> Iterator[str]:
    """The obstacles; then a table per object: function, offset in it, the instruction there, what
    is known there, and what a hit costs; for return probes and functions left out, the reason."""
    plans, unhooked = outlook.plans, outlook.unhooked
    yield from (obstacle.message for obstacle in outlook.obstacles)
    if outlook.obstacles:
        yield ""
    if not plans:
        if outlook.is_blocked:
            yield f"process {pid} can't be traced"
            return
        yield f"no object of process {pid} defines malloc and free: try --faults"
    else:
        yield f"  {'function':<24} {'at':>6} {'instruction':<32} {'known there':<16} a hit costs"
    for plan in plans:
        yield printable(plan.path)
        for probe in plan.probes:
            place = probe.placement
            count = traps(probe)
            line = (
                f"  {probe.hook.symbol:<24} {place.offset:+6} {place.instruction:<32} "
                f"{'entry and return' if probe.hook.has_return else 'release':<16} "
                f"{count} trap{'s' if count > 1 else ''}"
            )
            reason = probe.reason or place.reason
            yield f"{line}  ({reason})" if reason else line
        for followed in plan.followed:
            yield from _point_lines(followed)
        for one in plan.left_out:
            yield f"  {one.hook.symbol:<24} left out: {one.reason}"
    for remark in unhooked:
        yield f"not hooked: {printable(remark.text)}"
    if any(plan.followed for plan in plans):
        yield ""
        yield from _LEGEND


_LEGEND = (
    "A call hits one `size and result` point, or one `size` and one `result` point. Points that",
    "cost 2 traps are mostly on paths of failing calls. `one way`: the point counts only if its",
    "jump goes in one direction. `at` is the offset from the function's entry; a large one means",
    "code that several functions share. docs/points.md explains the table.",
)
_MEANINGS = {
    Action.BEGIN: "size",
    Action.END: "result",
    Action.BOTH: "size and result",
    Action.LEAVE: "where it goes on",
}


def _point_lines(followed: Followed) -> Iterator[str]:
    name = followed.hook.symbol
    if not followed.probes:
        yield f"  {name:<24} passes its calls on to another function"
    entry = followed.entry
    for probe in followed.probes:
        point = probe.point
        meaning = _MEANINGS[point.action]
        if point.condition is not None:
            meaning += ", one way"
        yield (
            f"  {name:<24} {probe.point.vaddr - entry:+6} {point.instruction:<32} "
            f"{meaning:<16} {_cost(point.emulated)}"
        )
        name = ""


def probes_to_json(outlook: Outlook, pid: int) -> str:
    """The same as one JSON object, schema leaktrace/probes/1."""
    plans, unhooked = outlook.plans, outlook.unhooked
    return json.dumps(
        {
            "schema": "leaktrace/probes/1",
            "pid": pid,
            "obstacles": [
                {"message": one.message, "capability": one.capability or None, "blocks": one.blocks}
                for one in outlook.obstacles
            ],
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
                    "reason": probe.reason or probe.placement.reason,
                }
                for plan in plans
                for probe in plan.probes
            ],
            "points": [
                {
                    "object": printable(plan.path),
                    "function": followed.hook.symbol,
                    "file_offset": probe.offset,
                    "offset": probe.point.vaddr - followed.entry,
                    "instruction": probe.point.instruction,
                    "emulated": probe.point.emulated,
                    "knows": _MEANINGS[probe.point.action],
                    "one_way": probe.point.condition is not None,
                    "traps": _traps_at(probe.point.emulated),
                }
                for plan in plans
                for followed in plan.followed
                for probe in followed.probes
            ],
            "left_out": [
                {
                    "object": printable(plan.path),
                    "function": one.hook.symbol,
                    "reason": one.reason,
                }
                for plan in plans
                for one in plan.left_out
            ],
            "unhooked": [
                {"text": printable(remark.text), "hint": printable(remark.hint)}
                for remark in unhooked
            ],
        },
        indent=2,
    )
