"""Views add up: whatever the grouping, nothing is counted twice or lost."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from random_reports import reports
from sample_reports import BUSY, CACHE_SITE, LOST_SITE, PARSE_SITE, SUPPRESSED

from leaktrace.analysis.quantities import Quantity
from leaktrace.analysis.views.by_size import BY_SIZE
from leaktrace.analysis.views.filters import SiteFilter, site_filter
from leaktrace.analysis.views.groups import select, view
from leaktrace.analysis.views.places import UNKNOWN, Grouping, Place
from leaktrace.analysis.views.trees import Direction, Folded, Node, tree
from leaktrace.errors import UsageError
from leaktrace.model import Report
from leaktrace.site import Frame, Stack

quantities = st.sampled_from(Quantity)


@given(reports(), quantities, st.sampled_from(Grouping))
def test_own_values_of_groups_add_up(report: Report, quantity: Quantity, by: Grouping) -> None:
    assume(by is not Grouping.SIZE or quantity in BY_SIZE)  # refused by the command line
    selection = select(report, quantity)
    grouped = view(selection, by)
    assert sum(row.own for row in grouped.rows) == sum(map(quantity.of, report.sites))
    assert len({row.place for row in grouped.rows}) == len(grouped.rows)
    for row in grouped.rows:
        assert 0 <= row.own <= row.total <= selection.shown


@given(reports(), st.sampled_from([Quantity.IN_USE, Quantity.IN_USE_BLOCKS]))
def test_sites_and_the_rest_make_up_the_total(report: Report, quantity: Quantity) -> None:
    field = "bytes" if quantity is Quantity.IN_USE else "count"
    selection = select(report, quantity, site_filter("parse|main"))
    assert selection.everything == getattr(report.outstanding, field)
    assert selection.shown + selection.filtered == selection.total


@given(reports(), quantities)
def test_a_recursion_counts_once(report: Report, quantity: Quantity) -> None:
    """By an account of its own: for each function, the sites on whose stacks it is."""
    for row in view(select(report, quantity), Grouping.FUNCTION).rows:
        name = row.place.function
        if name is None:
            continue
        on_stack = [
            site
            for site in report.sites
            if any((f.function, f.module) == (name, row.place.module) for f in site.stack.frames)
        ]
        assert row.total == sum(map(quantity.of, on_stack))


@given(reports(), quantities, st.sampled_from(Direction), st.floats(0, 1))
def test_trees_add_up(
    report: Report, quantity: Quantity, direction: Direction, least: float
) -> None:
    """Each node is its own value, what is listed below it and what is folded there."""
    selection = select(report, quantity)
    lines = tree(selection, direction).lines(least)
    assert sum(line.node.value for line in lines if line.depth == 0) == selection.shown
    for at, line in enumerate(lines):
        if isinstance(line.node, Folded):
            continue
        below = 0
        for other in lines[at + 1 :]:
            if other.depth <= line.depth:
                break
            below += other.node.value if other.depth == line.depth + 1 else 0
        assert line.node.own + below == line.node.value
        assert line.node.value >= selection.shown * least or line.depth == 0


def test_the_largest_roots_are_shown_however_small() -> None:
    sites = [
        replace(PARSE_SITE, bytes=100 + number, stack=Stack((Frame(number, f"f{number}"),)))
        for number in range(200)
    ]
    lines = tree(select(replace(BUSY, sites=tuple(sites)), Quantity.IN_USE), Direction.TREE)
    nodes = [line.node for line in lines.lines(0.01)]
    assert [node.value for node in nodes[:3]] == [299, 298, 297]
    assert nodes[3:] == [Folded(197, sum(range(100, 297)))]


@given(reports())
def test_callers_are_the_tree_upside_down(report: Report) -> None:
    """What functions allocate themselves is the first level of one and the ends of the other."""
    selection = select(report, Quantity.IN_USE)
    ends: dict[Place, int] = {}
    for line in tree(selection, Direction.TREE).lines(0):
        assert isinstance(line.node, Node)
        if line.node.own:
            ends[line.node.place] = ends.get(line.node.place, 0) + line.node.own
    first = tree(selection, Direction.CALLERS).roots
    assert ends == {place: node.value for place, node in first.items()}


@given(reports(), st.sampled_from(["parse", "libshop", r"/build/1\.c", "^main$", "nothing at all"]))
def test_focus_and_ignore_are_complements(report: Report, pattern: str) -> None:
    kept = site_filter(focus=pattern).kept(report.sites)
    left = site_filter(ignore=pattern).kept(report.sites)
    assert sorted([*kept, *left], key=lambda s: s.id) == sorted(report.sites, key=lambda s: s.id)


def test_groups_of_a_report() -> None:
    selection = select(BUSY, Quantity.IN_USE)
    by_function = {row.place.function: row for row in view(selection, Grouping.FUNCTION).rows}
    assert by_function["copy_token"].own == PARSE_SITE.bytes
    assert by_function["main"].own == 0
    assert by_function["main"].total == PARSE_SITE.bytes
    by_module = {row.place.module: row for row in view(selection, Grouping.MODULE).rows}
    assert by_module["/usr/sbin/httpd"].total == PARSE_SITE.bytes + CACHE_SITE.bytes
    assert by_module["/usr/sbin/httpd"].own == CACHE_SITE.bytes
    by_line = {(row.place.file, row.place.line): row for row in view(selection, Grouping.LINE).rows}
    assert by_line["http/parser.c", 118].total == PARSE_SITE.bytes
    # The stack that was lost, and code in no mapping.
    assert by_module[None].own == LOST_SITE.bytes
    assert {one.what for one in selection.elsewhere} == {"younger", "not listed"}
    assert selection.everything == BUSY.outstanding.bytes


def test_of_one_process_all_is_its_own() -> None:
    (row,) = view(select(BUSY, Quantity.IN_USE), Grouping.PROCESS).rows
    assert row.place == Place(pid=4242)
    kernel = replace(BUSY, target=replace(BUSY.target, kind="kernel"))
    (row,) = view(select(kernel, Quantity.IN_USE), Grouping.PROCESS).rows
    assert row.place == UNKNOWN


def test_what_is_suppressed_is_said() -> None:
    parts = {one.what: one.value for one in select(SUPPRESSED, Quantity.IN_USE).elsewhere}
    assert parts["suppressed"] == 1_258_291 + 64


def test_growth_is_per_hour() -> None:
    assert PARSE_SITE.verdict is not None
    assert Quantity.GROWTH.of(PARSE_SITE) == round(104_857.6 * 3600)
    assert Quantity.GROWTH.of(CACHE_SITE) == 0


@pytest.mark.parametrize("pattern", ["(", "a**", "[z-a]", "a{99999999999}", "x" * 2000])
def test_no_regular_expression(pattern: str) -> None:
    with pytest.raises(UsageError) as caught:
        site_filter(focus=pattern)
    assert "--focus" in caught.value.message
    assert caught.value.hint


def test_an_expression_that_takes_too_long_is_given_up() -> None:
    import re

    hostile = replace(
        PARSE_SITE,
        stack=replace(
            PARSE_SITE.stack,
            frames=(replace(PARSE_SITE.stack.frames[0], function="a" * 60 + "!"),),
        ),
    )
    chosen = SiteFilter(focus=re.compile("(a+)+$"), most_s=0.05)
    with pytest.raises(UsageError, match="takes too long"):
        chosen.kept([hostile])
    # What comes after it is not interrupted.
    assert site_filter(focus="a+!").kept([hostile]) == [hostile]
