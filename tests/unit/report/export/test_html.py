"""The page of a recording, as Chromium shows it."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from browser import CHROMIUM, Opened, chromium, opened
from sample_pages import course, many_sites
from sample_reports import BUSY, COMBINED, PARSE_SITE, QUIET, SAMPLED

from leaktrace import units
from leaktrace.model import Loss, Report, TargetInfo
from leaktrace.report.export import EXPORTS, ExportOptions
from leaktrace.report.export.course import MOST_POINTS, Course
from leaktrace.report.export.html import create
from leaktrace.report.export.memory_chart import memory_point
from leaktrace.report.sections import shown_parts
from leaktrace.site import Frame, Site, SourceLine, Stack, StackEnd

WINDOW = {"width": 1400, "height": 900}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not Path(CHROMIUM).exists():
        pytest.skip("needs chromium")
    with chromium() as started:
        yield started


def html_page(path: Path, reports: Iterable[Report]) -> Path:
    page = EXPORTS["html"].create(ExportOptions(facts=(("Host", "web<1>"),)))
    for report in reports:
        page.add(report)
    with path.open("wb") as output:
        page.write(output)
    return path


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Report]]:
    reports = list(course(40, many_sites(400, 12)))
    return html_page(tmp_path_factory.mktemp("page") / "report.html", reports), reports


def column(seen: Opened, number: int) -> list[str]:
    """The texts of a column of the table, from 1."""
    return seen.texts(f"#sites tr.row td:nth-child({number})")


def words(seen: Opened, selector: str) -> str:
    """The text of an element, with single spaces."""
    return " ".join(seen.page.locator(selector).inner_text().split())


_, HELD, SHARE, BLOCKS, RATE, CHANGE = range(1, 7)


def test_figures_are_those_of_the_reports(
    browser: Any, recording: tuple[Path, list[Report]]
) -> None:
    path, reports = recording
    first, last = reports[0], reports[-1]
    with opened(browser, path, viewport=WINDOW) as seen:
        assert words(seen, ".verdict") == "GROWING +38.4 KiB/s ±0.1 since the start at 3 sites"
        facts = "\n".join(seen.texts(".facts div"))
        assert "Host\nweb<1>" in facts
        assert f"{units.size(last.outstanding.bytes)} in {last.outstanding.count:,}" in facts
        assert "3m20s until 2026-11-24 06:03:20 UTC, 40 reports" in facts
        shown = last.sites[:25]
        assert column(seen, HELD) == [units.size(site.bytes) for site in shown]
        assert column(seen, BLOCKS) == [units.number(site.count) for site in shown]
        whole = last.outstanding.bytes
        assert column(seen, SHARE) == [units.share(site.bytes, whole) for site in shown]
        before = {site.id: site.bytes for site in first.sites}
        changes = [site.bytes - before[site.id] for site in shown]
        assert column(seen, CHANGE) == [units.size_change(one) if one else "0" for one in changes]
        assert column(seen, RATE)[:4] == ["+12.8 KiB/s"] * 3 + [""]
        legend = seen.texts("#chart .legend")[0].replace("\n", " ")
        assert f"outstanding {units.size(last.outstanding.bytes)}" in legend
        assert last.resident is not None
        assert f"RSS {units.size(last.resident.bytes)}" in legend
        assert last.explained is not None
        assert f"rest {units.size_change(last.explained.unexplained)}" in legend


def test_sort_filter_and_pages(browser: Any, recording: tuple[Path, list[Report]]) -> None:
    path, reports = recording
    last = reports[-1]
    with opened(browser, path, viewport=WINDOW) as seen:
        page = seen.page
        page.get_by_role("button", name="Blocks").click()
        most = sorted((site.count for site in last.sites), reverse=True)
        assert column(seen, BLOCKS) == [units.number(one) for one in most[:25]]
        page.get_by_role("button", name="Next", exact=True).click()
        assert column(seen, BLOCKS) == [units.number(one) for one in most[25:50]]
        assert seen.texts(".pager span") == ["26 to 50 of 400"]
        page.get_by_role("button", name="Blocks").click()
        assert column(seen, BLOCKS) == [units.number(one) for one in most[::-1][:25]]
        assert page.locator("th[aria-sort=ascending]").inner_text() == "Blocks ↑"

        wanted = "libpq.so.5.15"
        matching = [
            site
            for site in last.sites
            if any(wanted in (frame.module or "") for frame in site.stack.frames)
        ]
        page.get_by_label("Filter sites").fill("LIBPQ.so.5.15")
        assert seen.texts("#sites [role=status]") == [f"{len(matching)} of 400 sites"]
        page.get_by_label("Filter sites").fill(last.sites[7].id)
        assert column(seen, HELD) == [units.size(last.sites[7].bytes)]
        page.get_by_label("Filter sites").fill("nothing is called so")
        assert seen.texts(".pager span") == ["no site matches"]
        page.get_by_label("Filter sites").fill("")
        page.get_by_label("Verdict", exact=True).select_option(label="growing")
        assert seen.texts("#sites .tag") == ["growing"] * 3


def test_times_at_the_edge_of_the_chart_are_whole(browser: Any, tmp_path: Path) -> None:
    path = html_page(tmp_path / "page.html", course(12, many_sites(3, 5)))
    with opened(browser, path, viewport=WINDOW) as seen:
        texts = seen.page.locator("#chart svg text")
        assert "1m00s" in texts.all_text_contents()
        chart = seen.page.locator("#chart svg").bounding_box()
        assert chart is not None
        for text in texts.all():
            box = text.bounding_box()
            assert box is not None
            assert chart["x"] <= box["x"]
            assert box["x"] + box["width"] <= chart["x"] + chart["width"]


def test_a_span_shows_the_change_of_each_site(
    browser: Any, recording: tuple[Path, list[Report]]
) -> None:
    path, reports = recording
    with opened(browser, path, viewport=WINDOW) as seen:
        page = seen.page
        page.get_by_label("Begin of the span").fill("9")
        page.get_by_label("End of the span").fill("19")
        assert page.locator("th[aria-sort]").inner_text() == "Change 50 s to 1m40s ↓"
        before = {site.id: site.bytes for site in reports[9].sites}
        changes = sorted((site.bytes - before[site.id] for site in reports[19].sites), reverse=True)
        assert changes[2] > changes[3] == 0
        wanted = [units.size_change(one) if one else "0" for one in changes[:25]]
        assert column(seen, CHANGE) == wanted

        page.get_by_role("button", name="Whole time").click()
        assert page.locator("#chart rect.span").get_attribute("visibility") == "hidden"
        box = page.locator("#chart svg").bounding_box()
        assert box is not None
        left, right = box["x"] + 74, box["x"] + box["width"] - 14
        page.mouse.move(left + (right - left) * 5 / 39, box["y"] + 60)
        page.mouse.down()
        page.mouse.move(left + (right - left) * 30 / 39, box["y"] + 80, steps=4)
        page.mouse.up()
        assert page.locator("th[aria-sort]").inner_text() == "Change 30 s to 2m35s ↓"
        before = {site.id: site.bytes for site in reports[5].sites}
        most = max(site.bytes - before[site.id] for site in reports[30].sites)
        assert column(seen, CHANGE)[0] == units.size_change(most)
        page.mouse.click(left + 100, box["y"] + 60)
        assert page.get_by_role("button", name="Whole time").is_disabled()


def test_stacks_evidence_and_the_flame_graph(
    browser: Any, recording: tuple[Path, list[Report]]
) -> None:
    path, reports = recording
    last = reports[-1]
    with opened(browser, path, viewport=WINDOW) as seen:
        page = seen.page
        button = page.locator("#sites .open").first
        button.focus()
        page.keyboard.press("Enter")
        detail = seen.texts("tr.detail")[0]
        site = last.sites[0]
        assert site.verdict is not None
        assert site.verdict.reason in detail
        assert f"ID {site.id}" in detail
        assert f"allocated since tracing began: {units.size(site.allocated_bytes)}" in detail
        assert len(seen.texts("tr.detail .frames tr")) == len(site.stack.frames)
        for frame in site.stack.frames:
            assert frame.function is not None
            assert frame.function in detail
            if frame.source:
                assert f"{frame.source.file}:{frame.source.line}" in detail
        assert page.evaluate("document.activeElement.getAttribute('aria-expanded')") == "true"
        page.keyboard.press("Enter")
        assert seen.texts("tr.detail") == []

        page.keyboard.press("/")
        page.keyboard.type("getrow")
        label = page.locator("g.frame[name='all']").get_attribute("aria-label")
        assert label == f"all, {units.size(last.outstanding.bytes)}, 100%"
        assert re.match(r"\d+ found, ", seen.texts("#flame [role=status]")[0])


def test_it_can_be_read_without_scripts(browser: Any, recording: tuple[Path, list[Report]]) -> None:
    path, reports = recording
    with opened(browser, path, java_script_enabled=False) as seen:
        body = words(seen, "body")
        assert "GROWING +38.4 KiB/s" in body
        assert "Lost: nothing." in body
        rows = seen.page.locator("table.static tbody tr")
        assert rows.count() == 50
        assert rows.first.locator("td").all_inner_texts()[:4] == [
            "growing",
            units.size(reports[-1].sites[0].bytes),
            units.share(reports[-1].sites[0].bytes, reports[-1].outstanding.bytes),
            units.number(reports[-1].sites[0].count),
        ]
        assert not seen.page.locator("#theme").is_visible()


def test_sites_that_hold_nothing_any_more(browser: Any, tmp_path: Path) -> None:
    one, two, *others = many_sites(5, 4)
    first = replace(BUSY, sites=(one, two, *others), number=1)
    last = replace(BUSY, sites=(two,), elapsed_s=20.0, time=BUSY.time + timedelta(seconds=5))
    with opened(browser, html_page(tmp_path / "page.html", [first, last])) as seen:
        assert column(seen, HELD) == [units.size(two.bytes), "0 B", "0 B", "0 B", "0 B"]
        assert seen.texts("#sites .tag") == ["steady", *["gone"] * 4]
        assert units.size_change(-one.bytes) in column(seen, CHANGE)


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        (QUIET, "TOO EARLY to say: watched for 2.0s only"),
        (replace(QUIET, verdict=None), "There is no verdict."),
        (BUSY, "Lost: 1,234 allocations not recorded: the map is full (3.0 MiB). Raise"),
        (replace(SAMPLED, sections=(replace(COMBINED, section="pages"),)), "~12.0 MiB"),
    ],
    ids=["quiet", "no verdict", "losses", "sections"],
)
def test_a_single_report(browser: Any, tmp_path: Path, report: Report, expected: str) -> None:
    with opened(browser, html_page(tmp_path / "page.html", [report]), viewport=WINDOW) as seen:
        assert expected in words(seen, "body")
        assert not seen.page.locator("#chart-panel").is_visible()
        if report.sections:
            choice = seen.page.get_by_label("Part of the report whose sites are shown")
            choice.select_option(label="pages")
            assert column(seen, HELD)[0] == "12.0 MiB"


def test_no_report(browser: Any, tmp_path: Path) -> None:
    with opened(browser, html_page(tmp_path / "page.html", [])) as seen:
        assert "There was no report" in seen.page.locator("body").inner_text()


HOSTILE = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "\"'><svg onload=alert(1)>{{data}}{{libraries}}",
    "\x1b[31m red \x9b2J",
    "a\nb\u2028c\u2029d",
    "y" * 100_000,
)


def hostile_site(name: str, at: int) -> Site:
    frames = (Frame(1, name, 0, name, source=SourceLine(name, 1)), Frame(2, unknown=name))
    return replace(PARSE_SITE, id=f"{name[:40]}{at}", stack=Stack(frames, StackEnd.BROKEN))


def test_hostile_names_do_nothing_and_are_shown(browser: Any, tmp_path: Path) -> None:
    name = "".join(HOSTILE[:5])
    page = create(ExportOptions(facts=((name, name),)))
    for number in (1, 2):
        report = replace(
            BUSY,
            number=number,
            elapsed_s=number * 5.0,
            reason=name,
            final=True,
            target=TargetInfo(1, name, allocators=(name,), notes=(name,)),
            sites=tuple(hostile_site(one, at) for at, one in enumerate(HOSTILE)),
            losses=(Loss("stacks", 1, f"stacks {name}", name),),
            section=None,
        )
        page.add(report)
    page.add_mark(BUSY.time - timedelta(seconds=2), name)
    path = tmp_path / "page.html"
    with path.open("wb") as output:
        page.write(output)
    with opened(browser, path, viewport=WINDOW) as seen:
        for button in seen.page.locator("#sites .open").all():
            button.click()
        seen.page.keyboard.press("/")
        seen.page.locator("g.frame").first.wait_for()
        for shown in (*HOSTILE[:3], "\\x1b[31m red \\x9b2J", "a\\nb\\u2028c\\u2029d"):
            assert shown in seen.texts("#sites")[0]
            assert shown in seen.texts("h1")[0]
        assert seen.page.evaluate("document.querySelectorAll('img, svg[onload]').length") == 0
        width = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert seen.page.evaluate(width) <= 0


def test_ten_thousand_sites(browser: Any, tmp_path: Path) -> None:
    reports = list(course(3, many_sites(10_000, 30)))
    path = html_page(tmp_path / "page.html", reports)
    assert path.stat().st_size < 6 << 20
    with opened(browser, path, viewport=WINDOW) as seen:
        page = seen.page
        assert seen.texts("#sites [role=status]") == ["10,000 of 10,000 sites"]
        page.get_by_label("Filter sites").fill("libpq")
        found = re.match(r"([\d,]+) of 10,000 sites", seen.texts("#sites [role=status]")[0])
        wanted = sum(
            any("libpq" in (frame.module or "") for frame in site.stack.frames)
            for site in reports[-1].sites
        )
        assert found is not None
        assert found[1] == units.number(wanted)
        assert len(column(seen, HELD)) == 25


def test_the_course_is_bounded_and_keeps_the_first_and_the_last() -> None:
    site = many_sites(1, 3)[0]
    kept = Course(shown_parts, memory_point)
    for number in range(1, 5000):
        held = replace(site, bytes=number * 100)
        kept.add(replace(BUSY, elapsed_s=float(number), number=number, sites=(held,)))
    kept.finish()
    times = [point.elapsed_s for point in kept.points]
    assert MOST_POINTS <= len(times) <= 2 * MOST_POINTS + 1
    assert (times[0], times[-1]) == (1.0, 4999.0)
    steps = {round(b - a) for a, b in pairwise(times[:-1])}
    assert len(steps) == 1
    values = kept.parts[None].held(site, range(len(times)))
    assert values == [round(time) * 100 for time in times]


def test_the_course_of_sites_that_come_and_go() -> None:
    one, two = many_sites(2, 3)
    kept = Course(shown_parts, memory_point)
    shown = [(one,), (one, two), (two,), ()]
    for number, sites in enumerate(shown, 1):
        kept.add(replace(BUSY, elapsed_s=float(number), number=number, sites=sites))
    kept.finish()
    part = kept.parts[None]
    assert part.held(one, range(4)) == [one.bytes, one.bytes, 0, 0]
    assert part.held(two, range(4)) == [0, two.bytes, two.bytes, 0]
    assert [site.bytes for site in part.rows(replace(BUSY, sites=()))] == [0, 0]


def test_columns_have_one_value_per_site() -> None:
    page = create(ExportOptions())
    for report in course(3, many_sites(50, 5)):
        page.add(report)
    output = io.BytesIO()
    page.write(output)
    found = re.search(
        r'<script type="application/json" id="data">(.*?)</script>',
        output.getvalue().decode(),
        re.DOTALL,
    )
    assert found is not None
    part = json.loads(found[1])["parts"][0]
    lengths = {len(part["nodes"]), *map(len, part["sites"].values())}
    lengths.update(len(one["values"]) for one in part["quantities"])
    assert lengths == {50}
