"""Makes the sections of a report that are about pairs of functions that the user named."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from leaktrace.analysis.builder import ReportBuilder
from leaktrace.analysis.snapshot import Snapshot
from leaktrace.model import PairInfo, Report, TargetInfo
from leaktrace.options import Filters, Pair, ProcessOptions
from leaktrace.process.stack_names import StackNames
from leaktrace.process.tracer import Tracer


class PairReports:
    """Remembers what the next section about one pair is compared with."""

    def __init__(self, options: ProcessOptions, tracer: Tracer, pair: Pair, space: int) -> None:
        """`space`: the number of the pair, from 1."""
        self._tracer = tracer
        self._pair = pair
        self._space = space
        self._builder = _PairBuilder(options, tracer.traced.names, pair)

    def start_clock(self) -> None:
        """Recording has begun."""
        self._builder.start_clock()

    def forget(self) -> None:
        """The process has executed another program."""
        self._builder.forget()

    def build(
        self,
        snapshot: Snapshot,
        target: TargetInfo,
        *,
        target_ended: bool,
        final_reason: str | None,
    ) -> Report:
        """The section of this moment, as for `ReportBuilder.build`."""
        report = self._builder.build(
            snapshot, target, None, target_ended=target_ended, final_reason=final_reason
        )
        return replace(report, section=self._pair.name, pair=self._info())

    def _info(self) -> PairInfo:
        traced = self._tracer.traced
        planner = traced.hooks.pairs
        assert planner is not None  # there is a pair
        state = planner.states[self._space - 1]
        calls = self._tracer.pair_calls(self._space)
        return PairInfo(
            self._pair.allocate,
            self._pair.release,
            tuple(Path(path).name for path in state.objects_in(traced.has_mapped)),
            is_sized=self._pair.is_sized,
            other_releases=int(calls["other_releases"]),
            returned_again=int(calls["returned_again"]),
        )


class _PairBuilder(ReportBuilder):
    """Reports about one pair. What pairs allocate is never sampled."""

    def __init__(self, options: ProcessOptions, names: StackNames, pair: Pair) -> None:
        # Losses are counted once, and reported with the first section.
        super().__init__(
            replace(options, filters=Filters()), lambda _: (), names.stack_of, names.prepare
        )
        self._pair = pair

    def site_id(self, stack_id: int, counter: np.void | None) -> str:
        """Made from the stack and the function: a wrapper may call several."""
        own = super().site_id(stack_id, counter)
        return hashlib.blake2b(
            f"{own} {self._pair.allocate}".encode("utf-8", "surrogateescape"), digest_size=8
        ).hexdigest()
