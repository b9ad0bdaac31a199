"""What holds the blocks of the sites that a report shows (--holders)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from leaktrace.analysis.family import FamilyBuilder
from leaktrace.analysis.reachability.ways import MOST_WAYS, Ways
from leaktrace.analysis.site_id import site_id
from leaktrace.analysis.trim import readable
from leaktrace.options import ReportOptions
from leaktrace.process.held_blocks import HeldBlocks
from leaktrace.process.lost import LostBlocks
from leaktrace.process.member import Member
from leaktrace.process.tracer import Tracer
from leaktrace.reach import Holder, HolderKind, HolderStep
from leaktrace.report.folding import summary
from leaktrace.site import Frame


@dataclass(frozen=True)
class _Counted:
    """The blocks of one site in one process: how many, and the paths of the most of them, each with
    its blocks and their bytes."""

    member: Member
    held: HeldBlocks
    total: int
    paths: tuple[tuple[int, int, int], ...]


class HolderReports:
    """Answers for the last look."""

    def __init__(self, tracer: Tracer, lost: LostBlocks, asked: ReportOptions) -> None:
        self._tracer = tracer
        self._lost = lost
        self._asked = asked
        self._held: list[tuple[Member, HeldBlocks, NDArray[np.intp]]] = []
        # By the stack ids of a site: a report asks for the names first, then for all processes
        # together, then for each.
        self._counted: dict[frozenset[int], list[_Counted]] = {}

    def attach(self, builder: FamilyBuilder) -> None:
        """Let these reports say what holds the blocks of their sites."""
        builder.held_by = partial(self._held_by, builder)

    def look(self) -> None:
        """The next report is about the last snapshot that `LostBlocks.add_to` has seen."""
        self._held = self._lost.held()
        self._counted = {}

    def sites_on_paths(self, builder: FamilyBuilder, stack_ids: Sequence[int]) -> list[int]:
        """The stack ids whose names are needed to say what holds the blocks of these sites."""
        found: dict[int, None] = {}
        for stack_id in stack_ids:
            for one in self._counts_of(builder, stack_id):
                for path, _, _ in one.paths:
                    found |= dict.fromkeys(one.held.sites_on(path))
        return list(found)

    def _counts_of(self, builder: FamilyBuilder, stack_id: int) -> list[_Counted]:
        """Of each process with blocks of the site."""
        wanted = frozenset(
            one for same in builder.all_of(stack_id) for one in self._tracer.all_of(same)
        )
        if wanted not in self._counted:
            self._counted[wanted] = list(self._count(wanted))
        return self._counted[wanted]

    def _count(self, wanted: frozenset[int]) -> Iterator[_Counted]:
        for member, held, rows in self._held:
            counts = held.of_site(wanted, rows)
            total = sum(count for count, _ in counts.values())
            most = sorted(counts, key=lambda one: -counts[one][0])[:MOST_WAYS]
            if total:
                yield _Counted(member, held, total, tuple((one, *counts[one]) for one in most))

    def _held_by(
        self, builder: FamilyBuilder, stack_id: int, slot: int | None
    ) -> tuple[Holder, ...]:
        ways = Ways()
        for one in self._counts_of(builder, stack_id):
            if slot not in (None, one.member.number):
                continue
            ways.of_count(one.total)
            for path, count, size in one.paths:
                steps = one.held.steps(path, self._block_step, partial(_function_at, one.member))
                ways.add(steps, count, size)
        return ways.holders()

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
