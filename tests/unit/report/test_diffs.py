"""Diffs, views and generations, in each format."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_reports import reports
from rich.cells import cell_len
from sample_diffs import BASE, DIFFS, LATER, NAMES, grown, report_of
from sample_reports import BUSY, KERNEL, PARSE_SITE, SUPPRESSED, WEIGHTED
from sample_sizes import SIZED, WITHOUT_BYTES

from leaktrace.analysis.comparing.changes import Diff, compare
from leaktrace.analysis.comparing.generations import generations
from leaktrace.analysis.quantities import Quantity
from leaktrace.analysis.views.filters import site_filter
from leaktrace.analysis.views.groups import select, view
from leaktrace.analysis.views.places import Grouping
from leaktrace.analysis.views.trees import Direction, tree
from leaktrace.model import Loss, PairInfo, Remark, RemarkKind, Report
from leaktrace.report.diff_json import diff_object
from leaktrace.report.diff_text import diff_lines
from leaktrace.report.generations_json import generations_object
from leaktrace.report.generations_text import generation_lines
from leaktrace.report.json_lines import json_line
from leaktrace.report.view_reporter import ViewOptions, ViewReporter
from leaktrace.report.views_json import tree_object, view_object, views_object
from leaktrace.report.views_text import tree_lines, view_lines
from leaktrace.site import Frame, Site, Stack, Total

GOLDEN = Path(__file__).parent / "golden"
SCHEMAS = Path(__file__).parents[3] / "docs/schema"
WIDTHS = [40, 60, 80, 120, 200]
HOSTILE = ["worker", "漢字" * 70, "\x1b]0;owned\x07", "a b\n(c)", "", "\udcff", "f<" * 400]
HOSTILE_IDS = ["plain", "wide", "escape", "breaks", "empty", "undecodable", "long"]


def schema(name: str) -> jsonschema.Draft202012Validator:
    loaded = json.loads((SCHEMAS / f"{name}.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(loaded)
    return jsonschema.Draft202012Validator(loaded)


def compare_with_golden(name: str, actual: str) -> None:
    path = GOLDEN / name
    if os.environ.get("LEAKTRACE_UPDATE_GOLDEN") == "1":
        path.write_text(actual, encoding="utf-8")
    assert actual == path.read_text(encoding="utf-8")


def diff_text(diff: Diff, width: int = 80) -> list[str]:
    return [line.plain for line in diff_lines(diff, NAMES, 10, width)]


def views_text(report: Report, by: Grouping | Direction, width: int = 80) -> list[str]:
    selection = select(report, Quantity.IN_USE, site_filter(ignore="vector_of"))
    if isinstance(by, Direction):
        return [line.plain for line in tree_lines(tree(selection, by), 0.01, width)]
    return [line.plain for line in view_lines(view(selection, by), 3, width)]


@pytest.mark.parametrize("name", DIFFS)
def test_diff_is_as_recorded(name: str) -> None:
    compare_with_golden(f"diff-{name}.text", "\n".join([*diff_text(DIFFS[name]), ""]))
    shown = json_line(diff_object(DIFFS[name], NAMES, 10))
    compare_with_golden(f"diff-{name}.json", shown)
    schema("diff-1").validate(json.loads(shown))


@pytest.mark.parametrize("by", [*Grouping, *Direction])
def test_view_is_as_recorded(by: Grouping | Direction) -> None:
    first = (SIZED, WITHOUT_BYTES) if by is Grouping.SIZE else (BUSY,)
    reports = (*first, WEIGHTED, SUPPRESSED)
    lines = [line for report in reports for line in views_text(report, by)]
    compare_with_golden(f"view-{by.value}.text", "\n".join([*lines, ""]))


@pytest.mark.parametrize("report", [BUSY, KERNEL, WEIGHTED, SIZED])
@pytest.mark.parametrize("by", [*Grouping, *Direction])
def test_views_fit_their_schema(report: Report, by: Grouping | Direction) -> None:
    parts = []
    for part in (report, *report.sections, *report.other_memory):
        selection = select(part, Quantity.IN_USE)
        if isinstance(by, Direction):
            parts.append(tree_object(tree(selection, by), 0.0))
        else:
            parts.append(view_object(view(selection, by), 2))
    shown = json.loads(json_line(views_object(report, by.value, parts)))
    schema("view-1").validate(shown)
    # What is listed and what isn't make up what is shown.
    if isinstance(by, Grouping):
        assert sum(row["own"] for row in shown["rows"]) + shown["others"]["own"] == shown["shown"]
    else:
        roots = [node["value"] for node in shown["nodes"] if node["depth"] == 0]
        assert sum(roots) == shown["shown"]


def hostile(name: str) -> Site:
    frames = tuple(
        Frame(0x7F0000000000 + number, name, 3, f"/{name}", number, name) for number in range(40)
    )
    return replace(PARSE_SITE, id="5" * 16, stack=Stack(frames), bytes=1 << 60, count=1 << 50)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", HOSTILE, ids=HOSTILE_IDS)
def test_no_line_is_wider_than_the_terminal(width: int, name: str) -> None:
    target = replace(BUSY.target, command=name)
    some = replace(report_of(hostile(name), PARSE_SITE), target=target)
    none = replace(report_of(), target=target)
    lines = [
        *(line.plain for line in diff_lines(compare(none, some), (name, name), 10, width)),
        *(line for by in (*Grouping, *Direction) for line in views_text(some, by, width)),
    ]
    assert max(map(cell_len, lines)) <= width
    assert all(line.isprintable() for line in lines)


@given(reports(), reports(), st.integers(1, 5), st.booleans())
def test_json_of_any_diff_adds_up(base: Report, new: Report, top: int, same: bool) -> None:
    shown = json.loads(json_line(diff_object(compare(base, new, same_run=same), NAMES, top)))
    listed = sum(site["difference"] for site in shown["sites"]) + shown["others"]["difference"]
    assert listed == shown["shown_difference"]
    beside = sum(shown["elsewhere_difference"].values()) + shown["filtered_difference"]
    assert listed + beside == shown["difference"]
    assert shown["difference"] == shown["new_total"] - shown["base_total"]


@given(reports(), reports(), st.sampled_from(WIDTHS))
def test_any_diff_can_be_shown(base: Report, new: Report, width: int) -> None:
    lines = diff_text(compare(base, new), width)
    assert max(map(cell_len, lines)) <= width


def test_the_verdict_comes_first() -> None:
    lines = diff_text(DIFFS["one-run"])
    assert lines[3].startswith("MORE +17.4 MiB in 30m00s")
    assert "one site explains" in " ".join(lines[3:5])


def test_of_nothing_there_is_nothing_to_say() -> None:
    lines = diff_text(compare(BASE, BASE, same_run=True))
    assert any(line.startswith("SAME") for line in lines)
    assert not any("grew" in line or "came" in line for line in lines)


def test_growth_that_others_offset_is_said_as_such() -> None:
    """A share above 100% would say nothing."""
    moved = [replace(PARSE_SITE, bytes=100), replace(BASE.sites[1], bytes=9_000_000)]
    base = [replace(PARSE_SITE, bytes=8_000_000), replace(BASE.sites[1], bytes=100)]
    text = " ".join(diff_text(compare(report_of(*base), report_of(*moved), same_run=True)))
    assert "+8.6 MiB at one site" in text
    assert "-7.6 MiB at others" in text


def test_growth_everywhere_is_said_as_such() -> None:
    """Five sites that explain next to nothing would not be worth naming."""
    sites = [replace(PARSE_SITE, id=f"{number:016x}", bytes=1000) for number in range(40)]
    later = [replace(site, bytes=2000) for site in sites]
    text = " ".join(diff_text(compare(report_of(*sites), report_of(*later), same_run=True)))
    assert "spread over 40 sites, of which the first (copy_token token.h:12) explains" in (
        " ".join(text.split())
    )


def test_other_samples_are_said() -> None:
    other = replace(LATER, sample_bytes=1 << 19, error=Total(1, 1))
    text = " ".join(diff_text(compare(BASE, other)))
    assert "different samples" in text


UNSEEN = Remark(RemarkKind.UNSEEN_ALLOCATIONS, "blocks were released that nobody allocated")
LOST = Loss("allocations", 7, "allocations not recorded: the map is full")
GAPS = [
    "incomplete: blocks were released that nobody allocated",
    "lost: 7 allocations not recorded: the map is full",
]


def test_what_is_missing_is_said() -> None:
    lossy = replace(LATER, remarks=(UNSEEN,), losses=(LOST, replace(LOST, name="x", count=0)))
    notes = diff_object(compare(BASE, lossy), NAMES, 10)["notes"]
    assert [one.replace(" in new:", ":") for one in notes if " in new: " in one] == GAPS
    still = generations(BASE, LATER, replace(lossy, elapsed_s=9000.0))
    notes = generations_object(still, ("a", "b", "c"), 10)["notes"]
    assert [one for one in notes if one in GAPS] == GAPS


def test_sections_that_are_not_listed_in_full_are_said() -> None:
    shorter = replace(KERNEL.sections[0], site_count=KERNEL.sections[0].site_count + 3)
    short = replace(KERNEL, sections=(shorter, *KERNEL.sections[1:]))
    before, after = (
        diff_object(compare(KERNEL, one, same_run=True), NAMES, 10)["notes"]
        for one in (KERNEL, short)
    )
    (said,) = [one for one in after if one not in before]
    assert said.startswith("new doesn't list ")
    assert said.endswith(f" of {shorter.section}")


def _profile(diff: Diff) -> tuple[list[str], dict[str, list[int]]]:
    """Sample types, and values by stack (leaf first), as protobuf's own reader of our schema's
    source sees them."""
    import gzip
    import io

    from leaktrace.report.diff_exports import write_diff
    from leaktrace.report.export.pprof_schema import new_profile

    output = io.BytesIO()
    write_diff("pprof", diff, NAMES, output)
    profile = new_profile()
    profile.ParseFromString(gzip.decompress(output.getvalue()))
    text = profile.string_table
    comments = [text[one] for one in profile.comment]
    assert f"figures are differences: {NAMES[1]} less {NAMES[0]}" in comments
    functions = {one.id: text[one.name] for one in profile.function}
    locations = {
        one.id: [functions[line.function_id] for line in one.line] for one in profile.location
    }
    stacks: dict[str, list[int]] = {}
    for sample in profile.sample:
        stack = ";".join(name for at in sample.location_id for name in locations[at])
        stacks[stack] = list(sample.value)
    return [text[one.type] for one in profile.sample_type], stacks


def test_pprof_has_the_differences() -> None:
    types, stacks = _profile(DIFFS["one-run"])
    at = types.index("inuse_space")
    assert stacks["copy_token;parse_header;read_request;main"][at] == 18_000_000
    assert sum(values[at] for values in stacks.values()) == 18_000_000 - 97_152 + 300_000 - 96


def test_folded_has_both_figures() -> None:
    import io

    from leaktrace.report.diff_exports import write_diff

    output = io.BytesIO()
    write_diff("folded", DIFFS["one-run"], NAMES, output)
    lines = output.getvalue().decode().splitlines()
    base = PARSE_SITE.bytes
    assert f"main;read_request;parse_header;copy_token {base} {base + 18_000_000}" in lines
    # difffolded.pl's lines: a stack and two figures.
    figures = [line.rsplit(" ", 2)[1:] for line in lines]
    assert sum(int(new) - int(old) for old, new in figures) == 18_000_000 - 97_152 + 300_000 - 96


def test_a_flame_graph_of_differences_is_a_page() -> None:
    import io

    from leaktrace.report.diff_exports import write_diff

    output = io.BytesIO()
    write_diff("flamegraph", DIFFS["one-run"], NAMES, output)
    page = output.getvalue().decode()
    assert "httpd: v2.rec@last compared with v1.rec@first" in page
    assert "copy_token" in page


def test_generations_say_bounds() -> None:
    between = replace(LATER, elapsed_s=100.0, sites=BASE.sites, site_count=3)
    found = generations(BASE, LATER, replace(LATER, elapsed_s=2000.0))
    names = ("run@1", "run@2", "run@last")
    lines = [line.plain for line in generation_lines(found, names, 10, 80)]
    compare_with_golden("generations.text", "\n".join([*lines, ""]))
    assert max(map(cell_len, lines)) <= 80
    shown = json.loads(json_line(generations_object(found, names, 10)))
    schema("generations-1").validate(shown)
    assert shown["at_least"]["bytes"] <= shown["at_most"]["bytes"]
    assert not generations(BASE, between, between).sites


@pytest.mark.parametrize("by", [*Grouping, *Direction])
def test_reports_are_shown_by(by: Grouping | Direction) -> None:
    import io

    output = io.StringIO()
    options = ViewOptions(by, filter=site_filter(focus="parse"))
    ViewReporter(options, output, io.StringIO(), is_json=False).report(
        replace(SIZED, remarks=(UNSEEN,))
    )
    lines = output.getvalue().splitlines()
    assert "httpd" in lines[0]
    assert "lost: 1,234 allocations not recorded: the map is full" in lines
    assert GAPS[0] in lines
    assert max(map(cell_len, lines)) <= 80
    output = io.StringIO()
    ViewReporter(options, output, io.StringIO(), is_json=True).report(
        replace(KERNEL, sites=SIZED.sites, remarks=(UNSEEN,), losses=(LOST,))
    )
    shown = json.loads(output.getvalue())
    assert shown["incomplete"] == GAPS
    schema("view-1").validate(shown)
    assert shown["sections"][0]["section"] == "pages"


def test_growth_of_objects_without_sizes_has_no_bytes() -> None:
    pair = PairInfo("open_session", "close_session")
    counted = replace(BUSY, pair=pair, section="sessions", sections=())
    selection = select(counted, Quantity.GROWTH)
    lines = [line.plain for line in view_lines(view(selection, Grouping.FUNCTION), 5, 80)]
    assert lines[0].startswith("sessions: growth per hour by function: 377,487,360/h")
    assert not any("MiB" in line for line in lines)
    assert view_object(view(selection, Grouping.FUNCTION), 5)["unit"] == "blocks_per_hour"


def test_a_doubt_in_one_of_the_reports_is_said() -> None:
    """In the kernel a block may have been freed without being seen."""
    doubt = "4 of its blocks were freed without being seen"
    site = KERNEL.sites[0]
    doubted = replace(KERNEL, sites=(replace(site, unconfirmed=doubt), *KERNEL.sites[1:]))
    grown_sites = (grown(site, Total(96_000, 500)), *KERNEL.sites[1:])
    later = replace(KERNEL, elapsed_s=75.0, sites=grown_sites)
    diff = compare(doubted, later, same_run=True)
    assert f"    unconfirmed: {doubt}" in diff_text(diff)
    (shown,) = diff_object(diff, NAMES, 10)["sites"]
    assert (shown["unconfirmed"], shown["cache"]) == (doubt, site.cache)
    schema("diff-1").validate(diff_object(diff, NAMES, 10))
    assert not [line for line in diff_text(compare(KERNEL, later)) if "unconfirmed" in line]
