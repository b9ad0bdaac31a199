"""The page of what `leaktrace go` has seen, as Chromium shows it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from browser import CHROMIUM, Opened, chromium, opened
from sample_go import ENDED, GROWING, HEAP, SAMPLED, SINGLE, STUCK

from leaktrace import units
from leaktrace.go_report import EXECUTED, GoLine, GoReport
from leaktrace.report.export import ExportOptions
from leaktrace.report.export.go_html import GOROUTINES, GoPage
from leaktrace.report.export.go_html import HEAP as HEAP_PART

WINDOW = {"width": 1400, "height": 900}
PART = "Part of the report whose sites are shown"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not Path(CHROMIUM).exists():
        pytest.skip("needs chromium")
    with chromium() as started:
        yield started


def page(path: Path, reports: Iterable[GoReport]) -> Path:
    made = GoPage(ExportOptions(facts=(("Host", "web<1>"),)))
    for report in reports:
        made.add(report)
    with path.open("wb") as output:
        made.write(output)
    return path


def rising(number: int) -> GoReport:
    """Report `number` of several: all goes up by the same from one to the next."""
    stuck = replace(STUCK, growth=replace(STUCK.growth, count=100 * number))
    site = HEAP.sites[0]
    library = "/usr/lib/go/src"
    frames = (
        GoLine("strings.(*Builder).grow", f"{library}/strings/builder.go", 68),
        *site.frames,
        GoLine("runtime.main", f"{library}/runtime/proc.go", 250),
    )
    held = replace(site.now, in_use_bytes=number << 20, in_use_count=number * 256)
    look = replace(
        HEAP.look,
        in_use_bytes=number << 21,
        resident_bytes=number << 22,
        collector=replace(HEAP.look.collector, live_bytes=number << 20),
    )
    section = replace(
        GROWING.goroutines, groups=(stuck,), group_count=1, alive_count=100 * number + 5
    )
    return replace(
        GROWING,
        number=number,
        elapsed_s=5.0 * number,
        goroutines=section,
        heap=replace(
            HEAP, look=look, sites=(replace(site, now=held, frames=frames),), site_count=1
        ),
    )


def cells(seen: Opened) -> dict[str, str]:
    """The first row of the table, by the heads of its columns."""
    heads = [head.rstrip(" ↓↑") for head in seen.texts("#sites th")]
    return dict(zip(heads, seen.texts("#sites tr.row:first-child td"), strict=True))


def test_figures_are_those_of_the_reports(browser: Any, tmp_path: Path) -> None:
    with opened(browser, page(tmp_path / "page.html", map(rising, range(1, 9)))) as seen:
        assert seen.texts("h1") == ["shop (pid 4242): goroutines and heap"]
        goroutines, heap = (" ".join(text.split()) for text in seen.texts(".verdict"))
        assert goroutines == "GOROUTINES LEAKING 1 group of goroutines only grows: none has left it"
        assert heap.startswith("HEAP GROWS +1.3 MiB/s ±0.1 for 12.5 s: collections left ever more")
        assert heap.endswith("+18.8 MiB at shop/orders.newSession orders.go:53")
        facts = "\n".join(seen.texts(".facts div"))
        assert "Host\nweb<1>" in facts
        assert "Goroutines\n800 goroutines, +90.2/s" in facts
        assert "Heap in use\n16.0 MiB in 46,125 objects" in facts
        legend = " ".join(seen.texts("#chart .legend")[0].split())
        assert "live at the last collection 8.0 MiB" in legend
        assert "allocated since, or garbage 8.0 MiB" in legend
        assert "RSS 32.0 MiB" in legend
        assert "goroutines 800" in legend
        row = cells(seen)
        assert (row["Number"], row["Rate"], row["Change"]) == ("800", "+90.2/s", "+700")
        assert row["Oldest"] == "≥ 4m10s"
        assert "leaking" in row["Verdict"]
        assert "watch.go:77" in row["Where"]
        seen.page.locator("#sites .open").first.click()
        detail = seen.texts("#sites .detail")[0]
        assert "+1,353 in 15.0 s, at 4 looks, and none has left" in detail
        assert "in chan receive" in detail
        assert "800 goroutines: go shop/orders.(*Watch).run by shop/orders.Begin" in detail


def test_the_heap_is_a_part_of_its_own(browser: Any, tmp_path: Path) -> None:
    path = page(tmp_path / "page.html", map(rising, range(1, 9)))
    with opened(browser, path, viewport=WINDOW) as seen:
        assert seen.texts("#sites select option")[:2] == [GOROUTINES, HEAP_PART]
        seen.page.get_by_label(PART).select_option(label=HEAP_PART)
        row = cells(seen)
        assert "Verdict" not in row
        assert (row["In use"], row["Objects"]) == ("~8.0 MiB", "~2,048")
        assert (row["Rate"], row["Change"]) == ("~+1.2 MiB/s", "~+7.0 MiB")
        assert row["Where"].startswith("shop/orders.newSession")
        assert not seen.page.get_by_label("Verdict", exact=True).is_visible()
        seen.page.locator("#sites .open").first.click()
        detail = seen.texts("#sites .detail")[0]
        assert "of 4.0 KiB" in detail
        assert "allocated since the profile is on: ~76.2 MiB in ~19,500 objects" in detail
        seen.page.get_by_label("Begin of the span").fill("5")
        assert cells(seen)["Change 30 s to 40 s"] == "~+2.0 MiB"
        seen.page.locator("#flame").scroll_into_view_if_needed()
        seen.page.locator("g.frame").first.wait_for()


def test_of_another_program_nothing_is_compared(browser: Any, tmp_path: Path) -> None:
    executed = replace(rising(5), notes=(f"{EXECUTED}: figures count from now on",))
    reports = [*map(rising, range(1, 5)), executed, rising(6)]
    with opened(browser, page(tmp_path / "page.html", reports), viewport=WINDOW) as seen:
        assert cells(seen)["Change"] == "+100"
        assert "2 reports" in "\n".join(seen.texts(".facts div"))
        assert EXECUTED in seen.texts("[aria-labelledby=remarks-title]")[0]


@pytest.mark.parametrize(
    ("reports", "verdicts", "expected"),
    [
        ([SINGLE], ["GOROUTINES TOO EARLY"], "go1.99 is not known here"),
        ([replace(SINGLE, elapsed_s=5.0), SINGLE], ["GOROUTINES TOO EARLY"], "Goroutines over"),
        ([ENDED], ["GOROUTINES STEADY"], "2 spans of the heap, which changed"),
        ([ENDED], ["GOROUTINES STEADY"], "The figures are of 2.5 s before the end"),
        ([SAMPLED], ["GOROUTINES LEAKING", "HEAP TOO EARLY"], "Allocation sites: not known"),
        ([GROWING], ["GOROUTINES LEAKING", "HEAP GROWS"], "12 sites of goroutines: not recorded"),
    ],
    ids=["one look", "no heap", "spans", "ended", "no profile", "few groups"],
)
def test_what_is_not_known_is_said(
    browser: Any, tmp_path: Path, reports: list[GoReport], verdicts: list[str], expected: str
) -> None:
    path = page(tmp_path / "page.html", reports)
    with opened(browser, path, viewport=WINDOW) as seen:
        assert seen.texts(".verdict strong") == verdicts
        assert expected in seen.texts("main")[0]
        assert seen.page.locator("#chart-panel").is_visible() == (len(reports) > 1)


def test_without_scripts(browser: Any, tmp_path: Path) -> None:
    path = page(tmp_path / "page.html", [rising(1), rising(2)])
    with opened(browser, path, java_script_enabled=False) as seen:
        shown = seen.texts("main")[0]
        assert "GOROUTINES LEAKING" in shown
        rows = ["\t".join(text.split("\t")) for text in seen.texts("table.static tbody tr")]
        assert rows[0].split("\t")[:2] == ["200", "chan receive"]
        assert rows[1].split("\t")[:2] == [f"~{units.size(2 << 20)}", "~512"]


def test_hostile_names_do_nothing_and_are_shown(browser: Any, tmp_path: Path) -> None:
    name = "</script><img src=x onerror=alert(1)>{{data}}\x1b[31m\n\u2028"
    line = GoLine(name, name, 1)
    key = STUCK.growth.key._replace(state=name)
    group = replace(
        STUCK,
        growth=replace(STUCK.growth, key=key),
        frames=(line,),
        created_by=line,
        started_as=line,
    )
    site = replace(HEAP.sites[0], frames=(line,))
    report = replace(
        GROWING,
        command=name,
        path=name,
        version=name,
        final=True,
        reason=name,
        notes=(name,),
        goroutines=replace(GROWING.goroutines, groups=(group,)),
        heap=replace(HEAP, sites=(site,)),
    )
    path = page(tmp_path / "page.html", [replace(report, elapsed_s=5.0), report])
    with opened(browser, path, viewport=WINDOW) as seen:
        seen.page.locator("#sites .open").first.click()
        assert "<img src=x onerror=alert(1)>{{data}}\\x1b[31m\\n" in seen.texts("#sites")[0]
        assert seen.page.evaluate("document.querySelectorAll('img').length") == 0


def test_no_report(browser: Any, tmp_path: Path) -> None:
    with opened(browser, page(tmp_path / "page.html", [])) as seen:
        assert "There was no report" in seen.page.locator("body").inner_text()
