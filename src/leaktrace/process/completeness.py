"""What the figures of a process do not include, because there is no probe where it is allocated.

Such memory was never seen, so no counter of losses includes it. There are signs of it, none of
which costs the process anything: symbols of an allocator that isn't hooked
(process/probes/survey.py), releases of blocks that no probe saw allocated (process/unseen.py), and
memory that grows by far more than was allocated (analysis/resident.py). A sign is reported only if
it is certain: an ordinary program never shows one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from leaktrace.abi.process import ALLOCATION_LOSSES
from leaktrace.model import Remark
from leaktrace.process.probes.object_plan import ObjectPlan
from leaktrace.process.probes.survey import Survey
from leaktrace.process.slot import Slot
from leaktrace.process.unseen import UnseenReleases
from leaktrace.targets.mappings import Mapping


class Completeness:
    """The signs of one traced process."""

    def __init__(
        self, slot: Slot, pid: int, survey: Survey | None, first_generation: int | None
    ) -> None:
        """`first_generation`: the image whose every allocation was seen; None: there is none."""
        self._program = slot.program
        self._survey = survey
        self._first_generation = first_generation
        self._unseen = UnseenReleases(slot, pid)
        self._begun = False

    def hooked(self, plan: ObjectPlan) -> None:
        """An object was hooked."""
        self._unseen.add(plan)
        if self._begun:  # what it allocated before is unknown
            self._first_generation = None

    def begin(self) -> None:
        """Tracing begins. Every allocator that is mapped now is hooked."""
        self._begun = True

    def look(self, mappings: Sequence[Mapping], generation: int) -> None:
        """See what the image of this generation has released so far."""
        losses = self._program.losses.read_all()[1]
        self._unseen.look(
            mappings,
            generation,
            nothing_predates=generation == self._first_generation,
            lost=int(losses[list(ALLOCATION_LOSSES)].sum()),
        )

    def older_releases(self, released: int) -> int:
        """How many blocks may be older than the trace, of those that were released without a
        record."""
        return self._unseen.older(released)

    def has_runtime(self, is_mapped: Callable[[str], bool]) -> bool:
        """Whether the process has a heap of objects of its own, which nothing is hooked in."""
        return self._survey is not None and self._survey.has_runtime(is_mapped)

    def remarks(self, generation: int, is_mapped: Callable[[str], bool]) -> tuple[Remark, ...]:
        """The remarks for a report, as of the last look."""
        found = [] if self._survey is None else list(self._survey.remarks(is_mapped))
        unseen = self._unseen.remark(generation)
        found += [] if unseen is None else [unseen]
        return tuple(found)
