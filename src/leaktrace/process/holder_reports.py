"""What holds the blocks of the sites that a report shows (--holders)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from leaktrace.analysis.family import FamilyBuilder
from leaktrace.analysis.site_id import site_id
from leaktrace.analysis.trim import readable
from leaktrace.model import Frame
from leaktrace.options import ReportOptions
from leaktrace.process.held_blocks import HeldBlocks
from leaktrace.process.lost import LostBlocks
from leaktrace.process.member import Member
from leaktrace.process.tracer import Tracer
from leaktrace.reach import Holder, HolderKind, HolderStep
from leaktrace.report.folding import summary

_MOST_SHOWN = 5  # of one site

Path = tuple[HolderStep, ...]


@dataclass
class _Group:
    """Blocks of a site with the same path, in one or several processes."""

    path: Path
    count: int = 0
    bytes: int = 0


class HolderReports:
    """Answers for the last look."""

    def __init__(self, tracer: Tracer, lost: LostBlocks, asked: ReportOptions) -> None:
        self._tracer = tracer
        self._lost = lost
        self._asked = asked
        self._held: list[tuple[Member, HeldBlocks, NDArray[np.intp]]] = []

    def attach(self, builder: FamilyBuilder) -> None:
        """Let these reports say what holds the blocks of their sites."""
        builder.held_by = partial(self._held_by, builder)

    def look(self) -> None:
        """The next report is about the last snapshot that `LostBlocks.add_to` has seen."""
        self._held = self._lost.held()

    def sites_on_paths(self, builder: FamilyBuilder, stack_ids: Sequence[int]) -> list[int]:
        """The stack ids whose names are needed to say what holds the blocks of these sites."""
        found: dict[int, None] = {}
        for stack_id in stack_ids:
            wanted = self._all_of(builder, stack_id)
            for _, held, rows in self._held:
                counts = held.of_site(wanted, rows)
                for path in sorted(counts, key=lambda one: -counts[one][0])[:_MOST_SHOWN]:
                    found |= dict.fromkeys(held.sites_on(path))
        return list(found)

    def _all_of(self, builder: FamilyBuilder, stack_id: int) -> list[int]:
        return [one for same in builder.all_of(stack_id) for one in self._tracer.all_of(same)]

    def _held_by(
        self, builder: FamilyBuilder, stack_id: int, slot: int | None
    ) -> tuple[Holder, ...]:
        wanted = self._all_of(builder, stack_id)
        groups: dict[Path, _Group] = {}
        total = 0
        for member, held, rows in self._held:
            if slot not in (None, member.number):
                continue
            counts = held.of_site(wanted, rows)
            total += sum(count for count, _ in counts.values())
            for path in sorted(counts, key=lambda one: -counts[one][0])[:_MOST_SHOWN]:
                steps = held.steps(path, self._block_step, partial(_function_at, member))
                same = tuple(replace(one, offset=None, last_offset=None) for one in steps)
                group = groups.setdefault(same, _Group(steps))
                group.path = tuple(map(_widened, group.path, steps))
                group.count += counts[path][0]
                group.bytes += counts[path][1]
        ordered = sorted(groups.values(), key=lambda one: (-one.count, len(one.path)))
        return tuple(Holder(one.path, one.count, one.bytes, total) for one in ordered[:_MOST_SHOWN])

    def _block_step(self, stack_id: int) -> HolderStep:
        """Blocks of a site, as a step."""
        stack = self._tracer.names.stack_of(stack_id)
        found = summary(readable(stack, self._asked).frames)
        name = next((one.function for one in found if isinstance(one, Frame)), None)
        site = site_id(stack.frames) if stack.frames else f"{stack_id:016x}"
        return HolderStep(HolderKind.BLOCK, name=name, site=site)


def _function_at(member: Member, address: int) -> str | None:
    """The function of a process that has an address."""
    return member.traced.symbolizer.symbolize(address, is_return_address=False)[-1].function


def _widened(one: HolderStep, other: HolderStep) -> HolderStep:
    """The step with the offsets of both."""
    low = [step.offset for step in (one, other) if step.offset is not None]
    high = [step.last_offset for step in (one, other) if step.last_offset is not None]
    return replace(one, offset=min(low, default=None), last_offset=max(high, default=None))
