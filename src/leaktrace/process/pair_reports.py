"""Makes the sections of a report that are about pairs of functions that the user named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from leaktrace.model import PairInfo, Report
from leaktrace.options import Pair, ProcessOptions
from leaktrace.process.section_reports import SectionReports
from leaktrace.process.tracer import Tracer


class PairReports(SectionReports):
    """Remembers what the next section about one pair is compared with."""

    def __init__(self, options: ProcessOptions, tracer: Tracer, pair: Pair, space: int) -> None:
        """`space`: the number of the pair, from 1."""
        super().__init__(
            options, tracer, pair.allocate, "object", is_counted=not pair.is_sized, may_replace=True
        )
        self._tracer = tracer
        self._pair = pair
        self._space = space

    def completed(self, report: Report) -> Report:
        """The section with what it is about."""
        return replace(report, section=self._pair.name, pair=self._info())

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
