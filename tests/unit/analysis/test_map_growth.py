"""What has grown between looks made by hand: the figures add up."""

from __future__ import annotations

from hypothesis import given, strategies

from leaktrace.analysis.map_growth import MapsBuilder
from leaktrace.memory_map import Figures, Look, MapKind, MapsReport, MemoryRange

KIB = 1 << 10
PAGE = 4096


def held(
    start: int,
    pages: int,
    resident: int | None = None,
    *,
    kind: MapKind = MapKind.ANONYMOUS,
    file: tuple[str, int] | None = None,
    swapped: int = 0,
) -> MemoryRange:
    """A mapping at a page number, all of it resident if not said otherwise, in pages."""
    figures = Figures(
        pages * PAGE, (pages if resident is None else resident) * PAGE, swapped=swapped * PAGE
    )
    return MemoryRange(start * PAGE, (start + pages) * PAGE, "rw-p", "", kind, figures, file)


def look(*ranges: MemoryRange, program: tuple[int, ...] = (1,)) -> Look:
    return Look(0.0, ranges, 1, program)


def reports(*looks: Look, top: int = 10) -> list[MapsReport]:
    builder = MapsBuilder(4242, top)
    builder.begin(looks[0])
    return [builder.build(one, "worker", None) for one in looks[1:]]


def grown(*looks: Look) -> list[tuple[int, int, int, int, bool]]:
    """Of the last report: first page, pages, growth and growth since the previous look in pages,
    whether it is new."""
    return [
        (
            one.range.start // PAGE,
            (one.range.end - one.range.start) // PAGE,
            one.growth // PAGE,
            one.since_previous // PAGE,
            one.is_new,
        )
        for one in reports(*looks)[-1].grown
    ]


def test_a_mapping_that_grows_upwards_and_one_that_grows_downwards() -> None:
    first = look(held(100, 10), held(200, 10))
    second = look(held(100, 12), held(195, 15))
    third = look(held(100, 20), held(190, 20))
    assert grown(first, second) == [(195, 15, 5, 5, False), (100, 12, 2, 2, False)]
    assert grown(first, second, third) == [(100, 20, 10, 8, False), (190, 20, 10, 5, False)]


def test_new_and_gone_mappings() -> None:
    first = look(held(100, 10))
    second = look(held(300, 5))
    (report,) = reports(first, second)
    assert grown(first, second) == [(300, 5, 5, 5, True)]
    assert report.since_first == Figures(-5 * PAGE, -5 * PAGE)


def test_mappings_that_were_split_or_joined_are_one_place() -> None:
    whole = look(held(100, 100, 50))
    parts = look(held(100, 40, 40), held(140, 20, 20), held(160, 40, 0))
    assert grown(whole, parts) == [(100, 100, 10, 10, False)]
    assert grown(parts, look(held(100, 100, 70))) == [(100, 100, 10, 10, False)]


def test_a_file_in_the_place_of_other_memory_is_not_its_growth() -> None:
    first = look(held(100, 10))
    second = look(held(100, 12, file=("08:01", 7), kind=MapKind.CODE))
    assert grown(first, second) == [(100, 12, 12, 12, True)]


def test_a_reserve_does_not_join_what_it_lies_between() -> None:
    first = look(held(0, 4), held(4, 60, 0, kind=MapKind.INACCESSIBLE), held(64, 4))
    second = look(held(0, 8), held(8, 56, 0, kind=MapKind.INACCESSIBLE), held(64, 5))
    assert grown(first, second) == [(0, 8, 4, 4, False), (64, 5, 1, 1, False)]


def test_swapping_out_is_no_shrinking() -> None:
    first = look(held(100, 10))
    (report,) = reports(first, look(held(100, 12, 2, swapped=10)))
    assert report.grown[0].growth == 2 * PAGE
    assert report.since_first is not None
    assert (report.since_first.resident, report.since_first.swapped) == (-8 * PAGE, 10 * PAGE)


def test_kinds_that_are_gone_are_still_listed() -> None:
    (report,) = reports(look(held(1, 4, kind=MapKind.HEAP), held(9, 1)), look(held(9, 1)))
    (heap, other) = report.kinds
    assert (heap.kind, heap.count, heap.figures) == (MapKind.HEAP, 0, Figures())
    assert heap.since_first == Figures(-4 * PAGE, -4 * PAGE)
    assert other.since_first == Figures()


def test_another_program_is_not_compared_with_the_one_before() -> None:
    first, other = look(held(100, 10)), look(held(300, 5), program=(2,))
    further = look(held(300, 7), program=(2,))
    second, third = reports(first, other, further)
    assert second.since_first == Figures()
    assert second.grown == ()
    assert "executed another program" in second.notes[0]
    assert third.since_first == Figures(2 * PAGE, 2 * PAGE)
    assert third.notes == ()


def test_a_single_look() -> None:
    report = MapsBuilder(4242, 2).single(look(held(1, 2), held(9, 5), held(20, 3)), "worker")
    assert [one.start // PAGE for one in report.largest] == [9, 20]
    assert (report.since_first, report.grown) == (None, ())


RANGES = strategies.lists(
    strategies.tuples(
        strategies.integers(0, 6),
        strategies.integers(1, 9),
        strategies.sampled_from(list(MapKind)),
        strategies.sampled_from([None, ("08:01", 7)]),
    ),
    min_size=1,
    max_size=12,
)


def made(parts: list[tuple[int, int, MapKind, tuple[str, int] | None]]) -> Look:
    """Mappings one after the other, with gaps."""
    ranges, at = [], 0
    for gap, pages, kind, file in parts:
        at += gap
        ranges.append(held(at, pages, kind=kind, file=file))
        at += pages
    return look(*ranges)


@given(RANGES, RANGES, RANGES)
def test_the_sums_close(first: list[object], second: list[object], third: list[object]) -> None:
    looks = [made(one) for one in (first, second, third)]  # type: ignore[arg-type]
    report = reports(*looks, top=1000)[-1]
    total = Figures()
    for line in report.kinds:
        total = total.plus(line.figures)
    assert total == report.total
    assert sum(line.count for line in report.kinds) == report.mapping_count
    for name in ("since_first", "since_previous"):
        changes = [getattr(line, name).resident for line in report.kinds]
        assert sum(changes) == getattr(report, name).resident
    # What grew minus what shrank is the change of the whole.
    backwards = reports(looks[2], looks[0], top=1000)[-1]
    shrank = sum(one.growth for one in backwards.grown)
    assert report.since_first is not None
    forwards = sum(one.growth for one in reports(looks[0], looks[2], top=1000)[-1].grown)
    assert report.since_first.resident == forwards - shrank
