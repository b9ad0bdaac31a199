"""Makes the sections of a report that are about pairs of functions that the user named."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from leaktrace.analysis.family import FamilyBuilder, Member
from leaktrace.analysis.snapshot import Snapshot
from leaktrace.model import PairInfo, Report, TargetInfo
from leaktrace.options import By, Filters, Pair, ProcessOptions
from leaktrace.process.tracer import Tracer


class PairReports:
    """Remembers what the next section about one pair is compared with."""

    def __init__(self, options: ProcessOptions, tracer: Tracer, pair: Pair, space: int) -> None:
        """`space`: the number of the pair, from 1."""
        self._tracer = tracer
        self._pair = pair
        self._space = space
        names = tracer.names
        self._builder = FamilyBuilder(
            # What pairs allocate is never sampled; only malloc is shown by process.
            replace(options, filters=Filters(), report=replace(options.report, by=By.SITE)),
            lambda _: (),  # losses are counted once, and reported with the first section
            names.stack_of,
            names.locations_of,
            names.prepare,
        )

    def start_clock(self) -> None:
        """Recording has begun."""
        self._builder.start_clock()

    def forget(self, slot: int) -> None:
        """A process has executed another program."""
        self._builder.forget(slot)

    def build(
        self,
        snapshot: Snapshot,
        target: TargetInfo,
        members: Sequence[Member],
        *,
        target_ended: bool,
        final_reason: str | None,
    ) -> Report:
        """The section of this moment, as for `FamilyBuilder.build`."""
        report = self._builder.build(
            snapshot,
            target,
            [replace(member, memory=None) for member in members],
            None,
            target_ended=target_ended,
            final_reason=final_reason,
        )
        return replace(self._with_own_ids(report), section=self._pair.name, pair=self._info())

    def _with_own_ids(self, report: Report) -> Report:
        """Sites get ids made from the stack and the function: a wrapper may call several."""
        listed = report.allocations
        return replace(
            report,
            sites=tuple(replace(site, id=self._own_id(site.id)) for site in report.sites),
            allocations=(
                None
                if listed is None
                else tuple(replace(one, site_id=self._own_id(one.site_id)) for one in listed)
            ),
        )

    def _own_id(self, site_id: str) -> str:
        text = f"{site_id} {self._pair.allocate}"
        return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()

    def _info(self) -> PairInfo:
        calls = self._tracer.pair_calls(self._space)
        objects: dict[str, None] = {}
        for member in self._tracer.family:
            planner = member.traced.hooks.pairs
            assert planner is not None  # there is a pair
            state = planner.states[self._space - 1]
            objects |= dict.fromkeys(state.objects_in(member.traced.has_mapped))
        return PairInfo(
            self._pair.allocate,
            self._pair.release,
            tuple(dict.fromkeys(Path(path).name for path in objects)),
            is_sized=self._pair.is_sized,
            other_releases=int(calls["other_releases"]),
            returned_again=int(calls["returned_again"]),
        )
