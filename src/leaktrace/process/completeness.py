"""What the figures of a process leave out because no probe is where it is allocated.

Nothing of it is lost: it was never seen, so no counter tells. There are signs, none of which costs
the process anything: symbols of an allocator that isn't hooked (process/probes/survey.py), releases
of blocks that nobody saw allocated (process/unseen.py), and memory that grows by far more than was
allocated (analysis/resident.py). Each speaks only where it is certain: an ordinary program never
shows one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from leaktrace.abi.process import ALLOCATION_LOSSES
from leaktrace.model import Remark
from leaktrace.process.probes.plan import ObjectPlan
from leaktrace.process.probes.survey import Survey
from leaktrace.process.program import Program
from leaktrace.process.unseen import UnseenReleases
from leaktrace.targets.mappings import Mapping


class Completeness:
    """Of one traced process. `first_generation` is that of an image that nothing predates."""

    def __init__(
        self, program: Program, pid: int, survey: Survey | None, first_generation: int | None
    ) -> None:
        self._program = program
        self._survey = survey
        self._first_generation = first_generation
        self._unseen = UnseenReleases(program, pid)
        self._begun = False

    def hooked(self, plan: ObjectPlan) -> None:
        """The functions of an object are hooked."""
        self._unseen.add(plan)
        if self._begun:  # what it handed out before is unknown
            self._first_generation = None

    def begin(self) -> None:
        """Tracing begins: everything is hooked that is there."""
        self._begun = True

    def remarks(
        self, mappings: Sequence[Mapping], generation: int, is_mapped: Callable[[str], bool]
    ) -> tuple[Remark, ...]:
        """What a report should say."""
        found = [] if self._survey is None else list(self._survey.remarks(is_mapped))
        losses = self._program.losses.read_all()[1]
        unseen = self._unseen.remark(
            mappings,
            generation,
            nothing_predates=generation == self._first_generation,
            lost=int(losses[list(ALLOCATION_LOSSES)].sum()),
        )
        found += [] if unseen is None else [unseen]
        return tuple(found)
