"""Flame graphs, as Chromium shows them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from browser import CHROMIUM, Opened, chromium, opened
from sample_pages import course, many_sites
from sample_reports import BUSY, CACHE, COMBINED, PARSE, PARSE_SITE, SAMPLED

from leaktrace import units
from leaktrace.analysis.quantities import Quantity
from leaktrace.model import Report, TargetInfo
from leaktrace.report import export
from leaktrace.report.export import EXPORTS, ExportOptions
from leaktrace.report.export.call_tree import CallTree
from leaktrace.report.export.flamegraph import Compared, create_differential
from leaktrace.report.export.pages import in_script
from leaktrace.site import Frame, Site, SourceLine, Stack, StackEnd

FILES = Path(export.__file__).parent
WINDOW = {"width": 1400, "height": 900}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not Path(CHROMIUM).exists():
        pytest.skip("needs chromium")
    with chromium() as started:
        yield started


def flame_page(path: Path, report: Report, quantity: Quantity = Quantity.IN_USE) -> Path:
    graph = EXPORTS["flamegraph"].create(ExportOptions(quantity))
    graph.add(report)
    with path.open("wb") as output:
        graph.write(output)
    return path


def boxes(seen: Opened) -> dict[str, str]:
    """What each box says it is, by the name of its function."""
    labels = seen.page.locator("g.frame").evaluate_all(
        "all => all.map(one => one.getAttribute('aria-label'))"
    )
    return dict(label.split(", ", 1) for label in labels)


def test_boxes_have_the_figures_of_the_report(browser: Any, tmp_path: Path) -> None:
    path = flame_page(tmp_path / "flame.html", BUSY)
    with opened(browser, path, viewport=WINDOW) as seen:
        total = sum(site.bytes for site in BUSY.sites)
        assert boxes(seen)["all"] == f"{units.size(total)}, 100%"
        share = units.share(PARSE_SITE.bytes, total)
        for function in ("main", "read_request", "parse_header", "copy_token"):
            assert boxes(seen)[function] == f"{units.size(PARSE_SITE.bytes)}, {share}"
        for quantity in set(Quantity) - {Quantity.GROWTH}:
            seen.page.get_by_label("Quantity", exact=True).select_option(label=quantity.in_words)
            value = sum(quantity.of(site) for site in BUSY.sites)
            shown = units.size(value) if quantity.is_bytes else f"{value:,} allocations"
            assert boxes(seen)["all"] == f"{shown}, 100%"
        seen.page.get_by_label("Quantity", exact=True).select_option(
            label="growth of what is called growing"
        )
        assert boxes(seen)["main"] == f"{units.size(round(104_857.6 * 3600))}/h, 100%"


def test_zoom_search_hover_and_keys(browser: Any, tmp_path: Path) -> None:
    path = flame_page(tmp_path / "flame.html", BUSY)
    with opened(browser, path, viewport=WINDOW) as seen:
        page = seen.page
        width = "node => node.querySelector('rect').width.baseVal.value"

        def width_of(name: str) -> float:
            return float(page.locator(f"g.frame[name='{name}']").evaluate(width))

        def wait_until_main_is(width_px: float) -> None:
            seen.wait_until(lambda: abs(width_of("main") - width_px) < 0.1)

        share = PARSE_SITE.bytes / sum(site.bytes for site in BUSY.sites)
        whole = float(page.locator(".flame-box").evaluate("node => node.clientWidth"))
        before = whole * share
        wait_until_main_is(before)
        page.locator("g.frame[name='parse_header']").click()
        wait_until_main_is(whole)
        assert width_of("parse_header") == pytest.approx(whole, abs=0.1)
        page.keyboard.press("Escape")
        wait_until_main_is(before)
        assert width_of("parse_header") == pytest.approx(before, abs=0.1)

        page.locator("g.frame[name='parse_header']").hover()
        tip = page.locator(".flame-tip").inner_text()
        assert "http/parser.c:118" in tip
        assert "[libparse.so.1]" in tip
        assert units.size(PARSE_SITE.bytes) in tip

        page.keyboard.press("/")
        page.keyboard.type("PARSER.C")
        assert page.locator("[role=status]").first.inner_text() == "1 found, 86% of all"
        page.keyboard.press("Escape")
        assert page.get_by_label("Search the flame graph").input_value() == ""

        page.locator("g.frame[tabindex='0']").focus()
        page.keyboard.press("ArrowUp")
        page.keyboard.press("ArrowUp")
        assert page.evaluate("document.activeElement.getAttribute('name')") == "read_request"
        page.keyboard.press("Enter")
        assert page.get_by_role("button", name="Reset zoom").is_enabled()

        top = "node => node.getBoundingClientRect().top"
        frame = page.locator("g.frame[name='all']")
        lowest = frame.evaluate(top)
        page.get_by_role("button", name="Icicle").click()
        assert frame.evaluate(top) < lowest
        page.get_by_role("button", name="Switch to the dark theme").click()
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_parts_and_estimates(browser: Any, tmp_path: Path) -> None:
    report = replace(SAMPLED, sections=(replace(COMBINED, section="pages"),))
    with opened(browser, flame_page(tmp_path / "flame.html", report)) as seen:
        assert boxes(seen)["all"].startswith("~14.0 MiB")
        seen.page.get_by_label("Part of the report").select_option(label="pages")
        assert boxes(seen)["all"].startswith("12.0 MiB")


def test_nothing_at_all(browser: Any, tmp_path: Path) -> None:
    with opened(browser, flame_page(tmp_path / "flame.html", replace(BUSY, sites=()))) as seen:
        assert seen.texts(".empty") == ["Nothing to show: bytes in use: 0"]


def test_differences(browser: Any, tmp_path: Path) -> None:
    changes = [(PARSE, 1024, 3072), (CACHE, 2048, 0), (Stack((), StackEnd.LOST), 512, 512)]
    path = tmp_path / "diff.html"
    with path.open("wb") as output:
        create_differential(changes, Compared("b and a", "run a", "run b")).write(output)
    with opened(browser, path, viewport=WINDOW) as seen:
        assert boxes(seen)["all"] == "3.5 KiB, 100%"
        fill = "node => node.querySelector('rect').getAttribute('fill')"
        more = seen.page.locator("g.frame[name='parse_header']")
        assert re.match(r"hsl\(8 ", more.evaluate(fill))
        more.hover()
        assert "1.0 KiB before, 3.0 KiB now: +2.0 KiB" in seen.texts(".flame-tip")[0]
        same = seen.page.locator("g.frame[name='(stack lost)']")
        assert same.evaluate(fill) == "hsl(60 4% 84%)"
        seen.page.get_by_label("Quantity", exact=True).select_option(label="decrease")
        less = seen.page.locator("g.frame[name^='[libz']")
        assert re.match(r"hsl\(212 ", less.evaluate(fill))


HOSTILE = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "\"'><svg onload=alert(1)>{{data}}{{libraries}}",
    "\x1b[31m red \x9b2J",
    "a\nb\u2028c\u2029d",
    "${alert(1)}`&amp;\\",
    "x" * 100_000,
    "\udcff\ud800",
)


def hostile_site(name: str, at: int) -> Site:
    frames = (
        Frame(1, name, 0, name, source=SourceLine(name, 1)),
        Frame(2, f"{at}{name}", 0, f"/tmp/{name}", unknown=name),
    )
    return replace(PARSE_SITE, id=f"{at:016x}", stack=Stack(frames, StackEnd.COMPLETE))


def test_hostile_names_do_nothing_and_are_shown(browser: Any, tmp_path: Path) -> None:
    sites = tuple(hostile_site(name, at) for at, name in enumerate(HOSTILE))
    report = replace(BUSY, target=TargetInfo(1, "".join(HOSTILE[:6])), sites=sites)
    with opened(browser, flame_page(tmp_path / "flame.html", report)) as seen:
        assert "</script><script>alert(1)</script>" in seen.texts("h1")[0]
        names = seen.page.locator("g.frame").evaluate_all(
            "all => all.map(one => one.getAttribute('name'))"
        )
        for name in HOSTILE[:3]:
            assert name in names
        assert "a\\nb\\u2028c\\u2029d" in names
        assert "\\xff\\ud800" in names
        assert max(map(len, names)) <= 4096
        for at in range(len(names)):
            seen.page.locator("g.frame").nth(at).focus()
        assert seen.page.evaluate("document.querySelectorAll('img, svg[onload]').length") == 0


def test_a_script_that_leaktrace_did_not_write_does_not_run(browser: Any, tmp_path: Path) -> None:
    path = flame_page(tmp_path / "flame.html", BUSY)
    evil = "<script>document.title = 'owned'</script><img src='http://127.0.0.1:9/'></body>"
    path.write_text(path.read_text().replace("</body>", evil))
    context = browser.new_context()
    page = context.new_page()
    refused: list[str] = []
    page.on("console", lambda message: refused.append(message.text))
    page.goto(path.as_uri())
    assert page.title() == "httpd (pid 4242): flame graph"
    assert sum("Content Security Policy" in text for text in refused) == 2
    context.close()


def test_many_sites_are_joined_and_add_up(browser: Any, tmp_path: Path) -> None:
    *_, last = course(2, many_sites(1_000, 30))
    path = flame_page(tmp_path / "flame.html", last)
    with opened(browser, path, viewport={"width": 500, "height": 500}) as seen:
        assert boxes(seen)["all"] == f"{units.size(last.outstanding.bytes)}, 100%"
        assert 50 < seen.page.locator("g.frame").count() < 6_000
        assert "boxes that are too small are joined" in seen.texts(".legend")[0]
        seen.page.get_by_label("Search the flame graph").fill("libpq")
        matching = sum(
            site.bytes
            for site in last.sites
            if any("libpq" in (frame.module or "") for frame in site.stack.frames)
        )
        share = units.share(matching, last.outstanding.bytes)
        assert seen.texts("[role=status]")[0].endswith(f" found, {share} of all")
    assert path.stat().st_size < 4 << 20


def test_the_tree_gives_back_each_stack() -> None:
    tree = CallTree()
    sites = many_sites(300, 20)
    leaves = [tree.node(site.stack) for site in sites]
    table: dict[str, Any] = json.loads(json.dumps(tree.table()))
    frames, strings = table["frames"], table["strings"]
    assert len(set(strings)) == len(strings)
    for leaf, site in zip(leaves, sites, strict=True):
        node, found = leaf, []
        while node:
            assert table["parent"][node] < node
            at = table["frame"][node]
            found.append((strings[frames["function"][at]], frames["line"][at]))
            node = table["parent"][node]
        wanted = [(one.function, one.source.line if one.source else 0) for one in site.stack.frames]
        assert found == wanted


def test_data_can_not_end_its_block() -> None:
    text = in_script({"a": "</script><!--\u2028&"})
    assert not re.search("[<>&\u2028]", text)
    assert json.loads(text) == {"a": "</script><!--\u2028&"}


@pytest.mark.parametrize("path", sorted(FILES.glob("*/*.js")), ids=lambda path: path.name)
def test_scripts_are_valid_and_can_not_end_their_block(path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node")
    if path.parent.name == "pages":
        subprocess.run([node, "--check", path], check=True)
    assert not re.search("</script|<!--", path.read_text(), re.IGNORECASE)
