"""Differences of two reports: sums, signs, and which sites are the same."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_reports import LIBRARY, PROGRAM, moved, rebuilt, reports
from sample_reports import BUSY, KERNEL, PARSE_SITE

from leaktrace.analysis.comparing.as_report import difference_report
from leaktrace.analysis.comparing.changes import Change, compare
from leaktrace.analysis.comparing.matching import Rule
from leaktrace.analysis.comparing.same_names import function_name, object_name
from leaktrace.analysis.quantities import Quantity
from leaktrace.analysis.views.filters import site_filter
from leaktrace.errors import UsageError
from leaktrace.model import Report
from leaktrace.site import Site, SourceLine, Total

quantities = st.sampled_from([one for one in Quantity if one is not Quantity.GROWTH])


def value(report: Report, quantity: Quantity) -> int:
    """The total, by an account of its own."""
    if quantity is Quantity.IN_USE:
        return report.outstanding.bytes
    if quantity is Quantity.IN_USE_BLOCKS:
        return report.outstanding.count
    return sum(map(quantity.of, report.sites))


@given(reports(), reports(), quantities, st.booleans())
def test_differences_add_up(base: Report, new: Report, quantity: Quantity, same: bool) -> None:
    (part,) = compare(base, new, quantity, same_run=same).parts
    rest = [sum(one.value for one in side.elsewhere) for side in (part.base, part.new)]
    assert part.difference == value(new, quantity) - value(base, quantity)
    assert part.shown_difference + rest[1] - rest[0] == part.difference
    # Each site is in exactly one match.
    for report, side in ((base, "base"), (new, "new")):
        matched = [site for one in part.changes for site in getattr(one.match, side)]
        assert sorted(site.id for site in matched) == sorted(site.id for site in report.sites)


@given(reports(), reports(), quantities, st.booleans())
def test_the_other_way_round_it_is_negative(
    base: Report, new: Report, quantity: Quantity, same: bool
) -> None:
    (there,) = compare(base, new, quantity, same_run=same).parts
    (back,) = compare(new, base, quantity, same_run=same).parts
    assert there.difference == -back.difference
    assert there.rules == back.rules
    forward = {(one.match.base, one.match.new): one.difference for one in there.changes}
    assert forward == {(one.match.new, one.match.base): -one.difference for one in back.changes}


@given(reports(), quantities, st.booleans())
def test_nothing_differs_from_itself(report: Report, quantity: Quantity, same: bool) -> None:
    (part,) = compare(report, report, quantity, same_run=same).parts
    assert part.difference == 0
    assert {one.change for one in part.changes} <= {Change.SAME}


@given(reports(), st.integers(-(1 << 40), 1 << 40))
def test_other_addresses_change_nothing(report: Report, by: int) -> None:
    (part,) = compare(report, moved(report, by)).parts
    assert {one.change for one in part.changes} <= {Change.SAME}
    assert set(part.rules) <= {Rule.ID}


@given(reports(), st.sampled_from([PROGRAM, LIBRARY]))
def test_a_new_build_is_matched_by_names(report: Report, module: str) -> None:
    """Sites whose functions all have names are found again, or taken together with those that have
    the same names: no difference is invented. The others are said to be not comparable."""
    (part,) = compare(report, rebuilt(report, module)).parts
    # Both builds must be known to differ: from a library of which only one run has a site, it
    # isn't known whether it is the same.
    for one in part.changes:
        if one.match.is_comparable:
            assert one.change is Change.SAME
        else:
            assert any(f.function is None and f.module == module for f in one.stack.frames)


@given(reports())
def test_a_report_of_differences(report: Report) -> None:
    """Shown as a report, a diff with nothing is the report itself."""
    nothing = replace(report, sites=(), site_count=0, outstanding=Total(), younger=Total())
    shown = difference_report(compare(nothing, report))
    figures = {site.id: (site.bytes, site.count, site.allocated_bytes) for site in shown.sites}
    assert figures == {
        site.id: (site.bytes, site.count, site.allocated_bytes) for site in report.sites
    }


# -- single cases --


def with_lines(site: Site, number: int, line: int, build: str) -> Site:
    """A call of the same function at another line."""
    leaf = site.stack.frames[1]
    frame = replace(
        leaf,
        module_offset=0x1000 * number,
        build_id=build,
        source=SourceLine("http/parser.c", line),
        inlined=False,
    )
    stack = replace(site.stack, frames=(frame,))
    return replace(site, id=f"{build}-{number}", stack=stack, bytes=1000 * number, count=number)


def of(*sites: Site) -> Report:
    total = Total(sum(s.bytes for s in sites), sum(s.count for s in sites))
    return replace(BUSY, sites=sites, outstanding=total, younger=Total(), site_count=len(sites))


def test_sites_of_one_name_are_told_apart_by_lines() -> None:
    base = of(with_lines(PARSE_SITE, 1, 10, "old"), with_lines(PARSE_SITE, 2, 20, "old"))
    new = of(with_lines(PARSE_SITE, 5, 20, "new"), with_lines(PARSE_SITE, 1, 10, "new"))
    (part,) = compare(base, new).parts
    assert part.rules == {Rule.LINES: 2}
    assert {one.difference for one in part.changes} == {3000, 0}


def test_numbers_in_names_tell_apart_where_both_builds_have_them() -> None:
    def closure(number: int, size: int, build: str) -> Site:
        site = with_lines(PARSE_SITE, number, 10, build)
        frame = replace(site.stack.frames[0], function=f"main.h.func{number}", source=None)
        stack = replace(site.stack, frames=(frame,))
        return replace(site, stack=stack, bytes=size, count=1)

    base = of(closure(1, 100, "old"), closure(2, 900, "old"))
    new = of(closure(1, 900, "new"), closure(2, 100, "new"))
    (part,) = compare(base, new).parts
    assert part.rules == {Rule.NAMES: 2}
    assert {one.difference for one in part.changes} == {800, -800}


def test_moved_lines_are_not_guessed() -> None:
    """Ten lines were inserted above both: line 20 is another call than before."""
    base = of(with_lines(PARSE_SITE, 1, 10, "old"), with_lines(PARSE_SITE, 2, 20, "old"))
    new = of(with_lines(PARSE_SITE, 1, 20, "new"), with_lines(PARSE_SITE, 5, 30, "new"))
    (part,) = compare(base, new).parts
    assert part.rules == {Rule.MERGED: 1}
    (one,) = part.changes
    assert one.difference == 3000
    assert (len(one.match.base), len(one.match.new)) == (2, 2)


def test_in_one_build_other_offsets_are_other_sites() -> None:
    """Two calls at one line: names and lines are the same, and so is the build."""
    base = of(with_lines(PARSE_SITE, 1, 10, "same"))
    other = of(with_lines(PARSE_SITE, 2, 10, "same"))
    (part,) = compare(base, other).parts
    assert {one.change for one in part.changes} == {Change.CAME, Change.WENT}


def test_the_same_offset_of_a_file_without_build_id_can_be_another_function() -> None:
    one = replace(PARSE_SITE.stack.frames[1], build_id=None)
    other = replace(one, function="something_else")
    sites = [
        replace(PARSE_SITE, stack=replace(PARSE_SITE.stack, frames=(frame,)))
        for frame in (one, other)
    ]
    (part,) = compare(of(sites[0]), of(sites[1])).parts
    assert {one.change for one in part.changes} == {Change.CAME, Change.WENT}


def test_sections_of_the_kernel_are_compared_each() -> None:
    grown = replace(
        KERNEL.sections[0], sites=(replace(KERNEL.sections[0].sites[0], bytes=16_384),),
        outstanding=Total(16_384, 2),
    )  # fmt: skip
    diff = compare(KERNEL, replace(KERNEL, sections=(grown,)))
    assert [part.difference for part in diff.parts] == [0, 8192]
    assert diff.parts[1].new.report.section == "pages"
    assert compare(KERNEL, replace(KERNEL, sections=())).only_base == KERNEL.sections


def test_different_targets_are_refused() -> None:
    other = replace(BUSY, target=replace(BUSY.target, command="nginx"))
    with pytest.raises(UsageError, match="httpd and nginx"):
        compare(BUSY, other)
    assert compare(BUSY, other, force=True).parts[0].difference == 0


def test_rates_are_over_the_time_between() -> None:
    later = replace(BUSY, elapsed_s=BUSY.elapsed_s + 1800)
    assert compare(BUSY, later, same_run=True).per_hour(1000) == 2000
    assert compare(BUSY, later).per_hour(1000) is None
    assert compare(BUSY, BUSY, same_run=True).per_hour(1000) is None


def test_a_filter_is_said_in_the_sums() -> None:
    grown = replace(
        BUSY,
        sites=(replace(PARSE_SITE, bytes=PARSE_SITE.bytes + 100), *BUSY.sites[1:]),
        outstanding=Total(BUSY.outstanding.bytes + 100, BUSY.outstanding.count),
    )
    (part,) = compare(BUSY, grown, chosen=site_filter(ignore="parse_header")).parts
    assert (part.difference, part.shown_difference) == (100, 0)
    assert part.new.filtered - part.base.filtered == 100


@pytest.mark.parametrize(
    ("built", "plain"),
    [
        ("parse.constprop.0", "parse"),
        ("parse.isra.0.cold", "parse"),
        ("parse(int) [clone .part.3]", "parse(int)"),
        ("walk.llvm.1234567890", "walk"),
        ("malloc@@GLIBC_2.2.5", "malloc"),
        ("run(int)::{lambda(int)#12}::operator()", "run(int)::{lambda(int)}::operator()"),
        ("run()::'lambda0'(int)", "run()::'lambda'(int)"),
        ("app::insert::h0123456789abcdef", "app::insert"),
        ("app::insert::{{closure}}", "app::insert::{{closure}}"),
        ("main.handle.func2", "main.handle.func"),
        ("main.handle.func2.1", "main.handle.func"),
        ("net.func_names.part", "net.func_names"),
        ("operator@", "operator@"),
        (".cold", ".cold"),
    ],
)
def test_names_of_functions(built: str, plain: str) -> None:
    assert function_name(built) == plain


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/usr/lib/libz.so.1.2.13", "libz.so"),
        ("/usr/lib/libc-2.31.so", "libc-2.31.so"),
        ("/opt/v2/httpd", "[program]"),
        ("/opt/v2/httpd (deleted)", "[program]"),
        ("[vdso]", "[vdso]"),
        ("/usr/bin/other", "other"),
    ],
)
def test_names_of_objects(path: str, name: str) -> None:
    assert object_name(path, "httpd") == name
