"""Lines of the live view, compared with recorded ones, and their limits for every sample.

LEAKTRACE_UPDATE_GOLDEN=1 records them anew: read the diff.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from rendered_samples import REPORTS
from sample_reports import BUSY, INCOMPLETE, PARSE_SITE

from leaktrace.live.screen import screen_lines
from leaktrace.live.state import View
from leaktrace.model import Report

GOLDEN = Path(__file__).parent / "golden"


def growing(report: Report, count: int = 6) -> View:
    """A view of a few reports, the last of which is the given one."""
    view = View()
    for number in range(count, 0, -1):
        sites = tuple(replace(site, bytes=site.bytes - number * (1 << 14)) for site in report.sites)
        total = replace(report.outstanding, bytes=report.outstanding.bytes - number * (1 << 16))
        view.take(replace(report, outstanding=total, sites=sites, number=report.number - number))
    view.take(report)
    return view


def shown(view: View, width: int, height: int = 24, *, blocks: bool = True) -> str:
    lines = screen_lines(view, width, height, blocks=blocks)
    assert len(lines) == height
    assert all(line.cell_len <= width for line in lines)
    return "".join(f"{line.plain.rstrip()}\n" for line in lines)


def views() -> dict[str, View]:
    first = growing(BUSY)
    expanded = growing(BUSY)
    for key in ("enter", "m"):
        expanded.press(key)
    filtered = growing(BUSY)
    for key in ("p", "/", *"parse"):
        filtered.press(key)
    filtered.take(BUSY)
    helping = growing(BUSY)
    helping.press("?")
    return {
        "waiting": View(),
        "busy": first,
        "expanded": expanded,
        "filtered": filtered,
        "incomplete": growing(INCOMPLETE),
        "help": helping,
    }


@pytest.mark.parametrize("width", [80, 200])
@pytest.mark.parametrize("name", list(views()))
def test_lines_are_as_recorded(name: str, width: int) -> None:
    path = GOLDEN / f"{name}.{width}"
    text = shown(views()[name], width, 24 if width == 80 else 40)
    if os.environ.get("LEAKTRACE_UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.parametrize("name", list(REPORTS))
@pytest.mark.parametrize("width", [40, 57, 80, 110, 200])
def test_every_report_fits(name: str, width: int) -> None:
    for height in (6, 10, 24, 60):
        view = growing(REPORTS[name])
        shown(view, width, height)
        for key in ("m", "enter", "down", "right", "tab", "s", "p", "/", "x"):
            view.press(key)
            text = shown(view, width, height, blocks=False)
            assert not set("▁▂▃▄▅▆▇█▶↵…") & set(text)


def test_the_selected_site_is_always_seen() -> None:
    sites = tuple(replace(PARSE_SITE, id=f"{number:016}") for number in range(50))
    view = growing(replace(BUSY, sites=sites, site_count=60))
    for key in ["right", "down"] * 49:
        view.press(key)
        assert shown(view, 80).count("▶") == 1
    assert "and 10 sites more" in shown(view, 80)


def test_hostile_names_stay_on_their_line() -> None:
    frame = replace(PARSE_SITE.stack.frames[0], function="evil\x1b[2J\n\u202ename", module="\x07m")
    stack = replace(PARSE_SITE.stack, frames=(frame,))
    target = replace(BUSY.target, command="\x1b]0;x\x07")
    view = growing(replace(BUSY, sites=(replace(PARSE_SITE, stack=stack),), target=target))
    view.press("enter")
    for key in ("/", "\x1b"):
        view.press(key)
    for line in screen_lines(view, 80, 24):
        assert line.plain.isprintable()
