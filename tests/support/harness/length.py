"""How much the tests repeat.

The short form, which `make test` and .ci/run run, has at least one case of each kind.
LEAKTRACE_LENGTH=long (`make test-long`, `make test-safety`, `make test-vm`) runs every combination,
and repeats more often what depends on timing.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from typing import Any

IS_LONG = os.environ.get("LEAKTRACE_LENGTH", "short") == "long"


def crossed(*axes: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Values for `pytest.mark.parametrize` with several names.

    In the long form every combination. In the short form as many cases as the longest axis has
    values, in which each value of each axis occurs.
    """
    if IS_LONG:
        return list(itertools.product(*axes))
    count = max(len(axis) for axis in axes)
    return [tuple(axis[number % len(axis)] for axis in axes) for number in range(count)]


def chosen(short: Sequence[Any], more: Sequence[Any]) -> list[Any]:
    """Values for `pytest.mark.parametrize`: those of the short form, and more in the long form."""
    return [*short, *(more if IS_LONG else ())]


def repetitions(short: int, long: int) -> int:
    """How often something is repeated."""
    return long if IS_LONG else short
