"""Remarks about resident memory compared with outstanding memory, for figures made by hand."""

from __future__ import annotations

from typing import Any

import pytest

from leaktrace.analysis.resident import Account, explain, judge
from leaktrace.memory import MemoryGrowth, MemoryKinds
from leaktrace.model import RemarkKind
from leaktrace.site import Total
from leaktrace.targets.mappings import parse_mappings
from leaktrace.targets.memory_use import _of_programs, parse_memory

MIB = 1 << 20


def grown(
    anonymous: int = 0, file: int = 0, shared: int = 0, *, besides: int = 0, is_all: bool = False
) -> MemoryGrowth:
    """In MiB."""
    kinds = MemoryKinds(anonymous * MIB, file * MIB, shared * MIB)
    return MemoryGrowth(MemoryKinds(10**9), kinds, besides * MIB, is_all)


def account(held: int, allocated: int, most: int = 0, count: int = 10, **others: Any) -> Account:
    """In MiB, except the numbers of outstanding and of all other allocations."""
    return Account(
        Total(held * MIB, count), Total(allocated * MIB, count), Total(most * MIB, count), **others
    )


def verdict(memory: MemoryGrowth, figures: Account, programs: MemoryKinds | None = None) -> str:
    remark = judge(memory, lambda: programs or MemoryKinds(), figures, 4242)
    return "" if remark is None else remark.kind.value


@pytest.mark.parametrize(
    ("memory", "figures", "kind"),
    [
        # Nothing that the hooked functions ever allocated explains it.
        (grown(64), account(0, 0), RemarkKind.UNTRACKED_MEMORY),
        (grown(64), account(10, 20), RemarkKind.UNTRACKED_MEMORY),
        (grown(0, 0, 64), account(0, 0), RemarkKind.UNTRACKED_MEMORY),
        (grown(-100, 0, 64), account(0, 0), RemarkKind.UNTRACKED_MEMORY),
        # It may have been freed meanwhile; or a report has shown that it was.
        (grown(64), account(0, 1000), RemarkKind.KEPT_OR_UNTRACKED),
        (grown(64), account(0, 64, 60), RemarkKind.KEPT),
        (grown(64), account(40, 1000, 64), ""),
        (grown(200), account(0, 1000, 60), RemarkKind.KEPT_OR_UNTRACKED),
        (grown(0, 64), account(0, 1000, 64), RemarkKind.KEPT_OR_UNTRACKED),  # of a file: not kept
        # Not touched; or swapped out, or in huge pages.
        (grown(1), account(64, 64), RemarkKind.NOT_RESIDENT),
        (grown(-50), account(64, 64), RemarkKind.NOT_RESIDENT),
        (grown(1, besides=64), account(64, 64), ""),
        # Both grow together, or the difference is small.
        (grown(64), account(64, 64), ""),
        (grown(15), account(0, 0), ""),
        (grown(1), account(16, 16), ""),
        (grown(1000), account(520, 520), ""),
        # Small blocks take up far more than they hold.
        (grown(40), account(1, 1, count=1_000_000), ""),
        # Estimates may be off by three standard errors.
        (grown(64), account(0, 0, error_bytes=20 * MIB), ""),
        (grown(1), account(64, 64, error_bytes=20 * MIB), ""),
        # The size of what was lost is unknown.
        (grown(64), account(0, 0, is_whole=False), ""),
        (grown(1), account(64, 64, is_whole=False), RemarkKind.NOT_RESIDENT),
    ],
)
def test_verdict(memory: MemoryGrowth, figures: Account, kind: str) -> None:
    assert verdict(memory, figures) == kind


def test_code_and_data_of_programs_are_not_allocations() -> None:
    """A compiler touches 80 MiB of its code, and 12 MiB of tables that the loader relocates."""
    programs = MemoryKinds(anonymous=12 * MIB, file=110 * MIB)
    assert verdict(grown(14, 80, is_all=True), account(2, 4), programs) == ""
    assert verdict(grown(64, 80, is_all=True), account(2, 4), programs) == "untracked_memory"


def test_sentences_have_the_figures() -> None:
    def said(memory: MemoryGrowth, figures: Account) -> str:
        remark = judge(memory, MemoryKinds, figures, 4242)
        assert remark is not None
        return f"{remark.text}|{remark.hint}"

    untracked = said(grown(50, 2, 12), account(0, 1))
    for figure in ("64.0 MiB", "anonymous memory 50.0 MiB, shared memory 12.0 MiB", "1.0 MiB"):
        assert figure in untracked
    assert "|try --faults" in untracked
    assert "|mapped files belong to the page cache: pmap -x 4242 " in said(
        grown(0, 64), account(0, 0)
    )
    kept = said(grown(90), account(20, 70, 70))
    assert "20.0 MiB is outstanding" in kept
    assert "70.0 MiB in an earlier report" in kept
    assert said(grown(-3), account(64, 64)).startswith("RSS fell by 3.0 MiB ")
    assert "resident before" in said(grown(1), account(64, 64))
    assert "resident before" not in said(grown(1, is_all=True), account(64, 64))


@pytest.mark.parametrize(
    ("memory", "tracked", "unexplained", "kept"),
    [
        # Tracked: outstanding, what of it takes memory, other memory, the program break. In MiB.
        (grown(18), (17, 17, 0, 0), 1, 1),
        (grown(64), (4, 4, 0, 0), 60, 60),
        (grown(50, 12, 2), (4, 4, 0, 0), 60, 46),  # files and shared memory are not the allocator's
        (grown(10, 0, 8), (2, 2, 8, 0), 8, 8),
        (grown(10), (2, 2, 8, 8), 0, 0),
        (grown(1), (64, 64, 0, 0), -63, 0),
        (grown(12), (64, 2, 0, 0), 10, 10),  # a region that is mostly not touched
        (grown(20, -15), (0, 0, 0, 0), 5, 5),  # never more than what is unexplained
        (grown(-40), (0, 0, 0, 0), -40, 0),
    ],
)
def test_what_is_explained(
    memory: MemoryGrowth, tracked: tuple[int, ...], unexplained: int, kept: int
) -> None:
    found = explain(memory, *(size * MIB for size in tracked))
    assert (found.unexplained, found.allocator_at_most) == (unexplained * MIB, kept * MIB)
    assert (found.outstanding, found.outstanding_held) == (tracked[0] * MIB, tracked[1] * MIB)
    sum_bytes = found.outstanding_held + found.other_memory + found.unexplained
    assert found.resident_growth == memory.since_attach.total == sum_bytes


STATUS = """Name:\tcat
VmHWM:\t    1792 kB
VmRSS:\t    1793 kB
RssAnon:\t     256 kB
RssFile:\t    1536 kB
RssShmem:\t       1 kB
VmSwap:\t       8 kB
HugetlbPages:\t    2048 kB
Threads:\t5
CoreDumping:\t0
"""


def test_memory_of_a_process() -> None:
    memory = parse_memory(STATUS)
    assert memory is not None
    assert memory.resident == MemoryKinds(256 << 10, 1536 << 10, 1 << 10)
    assert memory.resident.total == 1793 << 10
    assert memory.not_resident == 2056 << 10
    assert memory.threads == 5
    assert parse_memory("Name:\tzombie\nState:\tZ (zombie)\n") is None


MAPS = b"""
1000-2000 r--p 00000000 08:01 7 /bin/a
2000-9000 r-xp 00001000 08:01 7 /bin/a
9000-b000 r--p 00008000 08:01 7 /bin/a
b000-c000 r--p 0000a000 08:01 7 /bin/a
c000-d000 rw-p 0000b000 08:01 7 /bin/a
d000-f000 rw-p 00000000 00:00 0
10000-20000 r--s 00000000 08:01 9 /data
20000-30000 rw-p 00000000 08:01 9 /data
"""


def test_what_programs_take_up() -> None:
    """Relocated constants (b000) become the process's own memory. Other constants stay the file's,
    as does a mapped file without code."""
    programs = _of_programs(parse_mappings(MAPS))
    assert programs == MemoryKinds(anonymous=0x2000, file=0xC000)
