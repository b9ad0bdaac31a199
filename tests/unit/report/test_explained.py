"""The lines that say how much of the growth of a process the tracked memory explains."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sample_reports import BUSY

from leaktrace.memory import Explained, HugePages, MemoryKinds
from leaktrace.model import Remark, RemarkKind, Report
from leaktrace.report.explained import explained_lines, explained_object

MIB = 1 << 20


def report(
    growth: int, held: int, *, other: int = 0, kept: int = 0, file: int = 0, shared: int = 0,
    outstanding: int | None = None, threads: int = 0, huge: HugePages | None = None,
    is_all: bool = False,
) -> Report:  # fmt: skip
    """In MiB."""
    explained = Explained(
        resident_growth=growth * MIB,
        outstanding=(held if outstanding is None else outstanding) * MIB,
        outstanding_held=held * MIB,
        other_memory=other * MIB,
        unexplained=(growth - held - other) * MIB,
        allocator_at_most=kept * MIB,
        since_attach=MemoryKinds((growth - file - shared) * MIB, file * MIB, shared * MIB),
        not_resident=0,
        new_threads=threads,
        huge_pages=huge,
        is_all=is_all,
    )
    return replace(BUSY, explained=explained, remarks=())


def lines(one: Report, width: int = 80) -> list[str]:
    return [line.plain for line in explained_lines(one, width)]


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (report(18, 17), ["RSS +18.0 MiB since attach: outstanding +17.0 MiB, rest +1.0 MiB"]),
        (
            report(18, 17, is_all=True),
            ["RSS +18.0 MiB since it started: outstanding +17.0 MiB, rest +1.0 MiB"],
        ),
        (report(5, 2), ["RSS +5.0 MiB since attach: outstanding +2.0 MiB, rest +3.0 MiB"]),
        (report(50, 42), ["RSS +50.0 MiB since attach: outstanding +42.0 MiB, rest +8.0 MiB"]),
        (
            report(64, 4, kept=57, file=3),
            [
                "RSS +64.0 MiB since attach: outstanding +4.0 MiB, not explained +60.0 MiB",
                "  allocator's free memory: at most 57.0 MiB   mapped files +3.0 MiB",
            ],
        ),
        (
            report(1, 64),
            ["RSS +1.0 MiB since attach: outstanding +64.0 MiB, untouched/reused -63.0 MiB"],
        ),
        (
            report(1, 64, is_all=True),
            ["RSS +1.0 MiB since it started: outstanding +64.0 MiB, not resident -63.0 MiB"],
        ),
        (
            report(-40, 0, kept=0),
            ["RSS -40.0 MiB since attach: outstanding +0 B, untouched/reused -40.0 MiB"],
        ),
        (
            report(10, 2, other=8, shared=8),
            [
                "RSS +10.0 MiB since attach: outstanding +2.0 MiB, other memory +8.0 MiB,",
                "  rest +0 B",
            ],
        ),
        (
            report(8, 3, outstanding=64),
            [
                "RSS +8.0 MiB since attach: outstanding +64.0 MiB (takes 3.0 MiB),",
                "  not explained +5.0 MiB",
            ],
        ),
    ],
)
def test_sums(one: Report, expected: list[str]) -> None:
    assert lines(one) == expected


def test_nothing_is_said_about_little() -> None:
    small = report(0, 0)
    assert small.explained is not None
    for growth in (MIB - 1, 1 - MIB):
        assert not lines(replace(small, explained=replace(small.explained, resident_growth=growth)))
    assert not lines(replace(small, explained=None))


def test_what_the_rest_may_be() -> None:
    huge = HugePages(20 * MIB, 5 * MIB)
    one = report(100, 1, kept=60, file=30, shared=9, threads=2, huge=huge)
    (_, parts) = lines(one, 300)
    assert parts == (
        "  allocator's free memory: at most 60.0 MiB   given back lazily 5.0 MiB   "
        "mapped files +30.0 MiB   shared memory +9.0 MiB   in huge pages 20.0 MiB   "
        "stacks of 2 new threads   older memory touched since"
    )
    (_, started) = lines(replace_all(one), 300)
    assert "older" not in started


def replace_all(one: Report) -> Report:
    assert one.explained is not None
    return replace(one, explained=replace(one.explained, is_all=True))


def test_a_remark_says_why_in_its_own_words() -> None:
    remark = Remark(RemarkKind.KEPT, "RSS grew, but …")
    one = report(64, 4, kept=60)
    assert len(lines(one)) == 2
    assert len(lines(replace(one, remarks=(remark,)))) == 1
    incomplete = Remark(RemarkKind.UNHOOKED_ALLOCATOR, "an allocator isn't hooked")
    assert len(lines(replace(one, remarks=(incomplete,)))) == 2


@pytest.mark.parametrize("width", [38, 60, 78, 118])
def test_never_more_than_two_lines(width: int) -> None:
    most = report(
        10**6, 10**3, other=10**3, kept=10**5, file=10**5, shared=10**5, outstanding=10**6,
        threads=10**4, huge=HugePages(MIB * 10**5, MIB * 10**5),
    )  # fmt: skip
    shown = lines(replace(most, sample_rate=100), width)
    assert 1 <= len(shown) <= 2
    assert max(map(len, shown)) <= width


def test_estimates_are_marked() -> None:
    (line, *_) = lines(replace(report(18, 17), sample_rate=100))
    assert "outstanding ~+17.0 MiB" in line


def test_the_figures_of_json_add_up() -> None:
    one = report(64, 4, other=3, kept=57).explained
    assert one is not None
    value = explained_object(one)
    parts = ("outstanding_held_bytes", "other_memory_bytes", "unexplained_bytes")
    assert value["resident_growth_bytes"] == sum(value[part] for part in parts)  # type: ignore[misc]
