"""Whether --idle can ask the kernel which memory is used."""

from __future__ import annotations

from contextlib import closing

from leaktrace.errors import EnvironmentUnfitError
from leaktrace.machine.machine import ONLY_LOCALLY, Feature, Machine, State
from leaktrace.targets.damon import Damon
from leaktrace.targets.page_frames import Frames

_NAME = "DAMON"


def damon(machine: Machine) -> Feature:
    """Tried without watching anything."""
    if not machine.is_running:
        return Feature(_NAME, State.UNKNOWN, ONLY_LOCALLY)
    try:
        with Frames(), closing(Damon()):
            return Feature(_NAME, State.OK, "--idle can see which memory is used")
    except EnvironmentUnfitError as error:
        return Feature(_NAME, State.LIMITED, f"--idle does not work: {error.message}", error.hint)
