"""Which part of a Go heap grows most, from looks made by hand."""

from __future__ import annotations

import random
from dataclasses import replace

from sample_go import HEAP

from leaktrace.analysis.go_parts import GoParts
from leaktrace.go_report import SeenObjects, SizeKey, TypeKey, TypesLook

KEPT = SizeKey(4096, has_pointers=True, is_large=False)
GARBAGE = SizeKey(64, has_pointers=False, is_large=False)
SESSION = TypeKey("main.Session", 4008)
ROW = TypeKey("main.Row", 600)
NOTHING = SeenObjects(0, 0)


def parts_of(*, looks: int, kept: int, of_session: float = 0.0, others: int = 0) -> GoParts:
    """Looks at a heap that keeps so many bytes more at each, amid a hundred times as much garbage
    that comes and goes. `of_session`: which part of them is of that type; `others`: so many sizes
    that stay the same."""
    parts, rng = GoParts(), random.Random(1)
    for number in range(looks):
        held = number * kept
        sizes = {KEPT: SeenObjects(1, held), GARBAGE: SeenObjects(1, rng.randrange(100 * kept))}
        for other in range(others):
            sizes[SizeKey(10_000 + other, has_pointers=True, is_large=True)] = SeenObjects(1, 10**9)
        types = {SESSION: SeenObjects(1, int(held * of_session)), ROW: SeenObjects(1, 5000)}
        parts.add(
            replace(
                HEAP.look,
                time_s=100.0 + number,
                sizes=sizes,
                types=TypesLook(types, NOTHING, 0),
            )
        )
    return parts


def test_what_is_kept_is_named_and_not_garbage() -> None:
    assert parts_of(looks=12, kept=1000).grown_most() == KEPT


def test_a_type_is_named_if_most_is_of_it() -> None:
    assert parts_of(looks=12, kept=1000, of_session=0.9).grown_most() == SESSION
    assert parts_of(looks=12, kept=1000, of_session=0.2).grown_most() == KEPT


def test_few_looks_name_nothing() -> None:
    assert GoParts().grown_most() is None
    assert parts_of(looks=2, kept=1000).grown_most() is None


def test_what_is_too_small_to_be_kept_is_not_known() -> None:
    """There are more sizes than are kept of a look, and all others are larger."""
    assert parts_of(looks=12, kept=1000, others=300).grown_most() is None
