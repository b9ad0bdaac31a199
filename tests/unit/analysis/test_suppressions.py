"""Which sites are suppressed, and what is said of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from leaktrace.analysis.sites import SiteTable
from leaktrace.analysis.suppressions import MOST_COMPARED, SuppressedSites, matches
from leaktrace.options import Suppression
from leaktrace.site import Frame, SourceLine, Stack, Total
from leaktrace.verdict import Verdict, VerdictKind

STACK = Stack(
    (
        Frame(0x10, "copy_token", 0, "/opt/lib/libparse.so.1", inlined=True),
        Frame(0x10, "app::Parser::parse(int) const", 4, "/opt/lib/libparse.so.1",
              source=SourceLine("/src/http/parser.cc", 7)),
        Frame(0x20, None, 0, "/opt/bin/server", unknown="no symbols"),
        Frame(0x30, "main", 4, "/opt/bin/server"),
    )
)  # fmt: skip


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        # A part of a function, of a source file or of a module, of any frame.
        ("copy_token", True),
        ("Parser::parse", True),
        ("parser.cc", True),
        ("libparse.so", True),
        ("main", True),
        ("bin/server", True),
        ("COPY_TOKEN", False),
        ("no symbols", False),
        # Wildcards and anchors.
        ("copy*ken", True),
        ("copy*ken$", True),
        ("^copy", True),
        ("^token", False),
        ("copy$", False),
        ("^main$", True),
        ("^mai$", False),
        ("^/opt/lib/*.so.1$", True),
        ("^*token", True),
        ("app::*const$", True),
        # Nothing else is special.
        ("parse(int)", True),
        ("parse.int.", False),
        ("[a-z]*", False),
        ("ma^in", False),
    ],
)
def test_pattern(pattern: str, *, expected: bool) -> None:
    assert matches(pattern, STACK) is expected


def table(count: int) -> SiteTable:
    """Sites 1 to `count`, the largest first."""
    ids = np.arange(1, count + 1, dtype=np.uint64)
    return SiteTable(ids, 10 * np.arange(count, 0, -1), np.ones(count, dtype=np.int64))


class Stacks:
    """Stacks whose function is their id, and how often they were asked for."""

    def __init__(self) -> None:
        self.prepared: list[int] = []
        self.names: dict[int, Stack] = {}

    def stack_of(self, stack_id: int) -> Stack:
        return self.names.setdefault(stack_id, Stack((Frame(stack_id, f"f{stack_id}_"),)))

    def prepare(self, stack_ids: Sequence[int]) -> None:
        self.prepared += stack_ids


def suppressed(stacks: Stacks, *patterns: str) -> SuppressedSites:
    found = SuppressedSites(
        [Suppression(pattern, "a file") for pattern in patterns], stacks.stack_of, stacks.prepare
    )
    found.begin()
    return found


def left(sites: SuppressedSites, among: SiteTable, top: int, more: Sequence[int] = ()) -> list[int]:
    rows = sites.without(np.arange(len(among)), among, top, more)
    return [int(one) for one in among.stack_ids[rows]]


def test_suppressed_sites_are_left_out_and_counted_once() -> None:
    sites = suppressed(Stacks(), "f2_", "f*_", "^f4_$", "g")
    sites_of_two = suppressed(Stacks(), "f2_", "^f4_$", "f2", "g")
    assert left(sites, table(5), 2) == []
    assert left(sites_of_two, table(5), 2) == [1, 3, 5]
    account = sites_of_two.account(table(5))
    assert account is not None
    assert [(one.pattern, one.site_count, one.held) for one in account.patterns] == [
        ("f2_", 1, Total(40, 1)),
        ("^f4_$", 1, Total(20, 1)),
        ("f2", 0, Total()),
        ("g", 0, Total()),
    ]
    assert (account.site_count, account.held) == (2, Total(60, 2))


def test_without_patterns_nothing_is_named() -> None:
    stacks = Stacks()
    sites = suppressed(stacks)
    assert left(sites, table(3), 3) == [1, 2, 3]
    assert sites.account(table(3)) is None
    assert stacks.prepared == []


def test_all_sites_that_would_be_shown_are_compared() -> None:
    """Even if more than MOST_COMPARED are suppressed; but no more are named than needed."""
    stacks, count = Stacks(), 3 * MOST_COMPARED
    odd = suppressed(stacks, *[f"^f{number}*" for number in range(1, 10)])
    assert left(odd, table(count), 5) == []
    stacks = Stacks()
    few = suppressed(stacks, "^f1_")
    assert len(left(few, table(count), 5)) == count - 1
    assert sorted(stacks.prepared) == list(range(1, MOST_COMPARED + 1))


def test_sites_with_a_verdict_are_compared_wherever_they_are() -> None:
    count = MOST_COMPARED + 50
    sites = suppressed(Stacks(), f"f{count}_")
    assert count in left(sites, table(count), 5)
    assert count not in left(sites, table(count), 5, [count])
    growing = Verdict(VerdictKind.GROWING)
    assert sites.allowed({1: growing, count: growing}) == {1: growing}


def test_names_that_arrive_later_count() -> None:
    stacks = Stacks()
    stacks.names[2] = Stack((Frame(2, None, unknown="debug information is being read"),))
    sites = suppressed(stacks, "f2_")
    assert left(sites, table(3), 3) == [1, 2, 3]
    stacks.names[2] = Stack((Frame(2, "f2_"),))
    sites.begin()
    assert left(sites, table(3), 3) == [1, 3]
    sites.begin()
    assert left(sites, table(3), 3) == [1, 3]
