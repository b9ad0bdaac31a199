"""The story in README.md, replayed with a shorter trace: each command works, prints what README.md
shows of it, and the figures of all of them agree."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from browser import CHROMIUM, chromium, opened
from drawing import draw_terminal, last_frame
from harness import story
from harness.target import Target
from harness.terminal import InTerminal
from read_exports import read_pprof

pytestmark = pytest.mark.usefixtures("require_bpf")

SHORTER, REPORTS = " 0.7 4 ", 4
# By the function that allocates, as the comment on top of the program says.
SIZES = {
    "print_receipt": 1600,
    "fill_basket": 480,
    "open_session": 240,
    "render_page": 8000,
    "add_product": 1000,
}
_FRAME = re.compile(r"^ +(\w+)\+0x[0-9a-f]+ +\S*/shop\.c:(\d+) +\[shop\]$", re.MULTILINE)
_UNITS = {"B": 1, "kB": 1 << 10, "MB": 1 << 20}


@dataclass(frozen=True)
class Replay:
    folder: Path
    printed: dict[str, str]  # by the first words of the command
    shown: dict[str, str]  # by README.md
    live: str  # what the live view has written to its terminal

    def json(self, command: str) -> Any:
        outcome = story.run(f"{command} -f json", self.folder)
        assert outcome.returncode == 0, outcome.stderr
        return json.loads(outcome.stdout)


@pytest.fixture(scope="module")
def replay(tmp_path_factory: pytest.TempPathFactory, require_tool: Callable[[str], str]) -> Replay:
    require_tool("gcc")
    require_tool("go")
    folder = tmp_path_factory.mktemp("story")
    story.prepare(folder)
    build, trace, *others, top = story.steps()
    assert story.INTERVALS in trace.command
    printed = {}

    def run(command: str, name: str) -> None:
        outcome = story.run(command, folder)
        assert outcome.returncode == 0, f"{command}: {outcome.stderr}"
        printed[name] = outcome.stdout

    run(build.command, "gcc")
    words = top.command.split()
    assert words[:3] == ["leaktrace", "top", "-p"]
    with ExitStack() as running:
        shop = running.enter_context(Target([folder / story.PROGRAM]))
        # It watches one shop while the other one is traced: a picture takes time to come.
        live = running.enter_context(InTerminal(*words[1:3], str(shop.pid)))
        run(trace.command.replace(story.INTERVALS, SHORTER), "trace")
        live.until("print_receipt")
        live.press(b"q")
        assert live.finish() == 0, live.shown
    for step in others:
        run(step.command, name_of(step))
    shown = {"trace": trace, **{name_of(step): step for step in others}}
    texts = {name: "\n".join(step.shown) for name, step in shown.items()}
    return Replay(folder, printed, texts, live.painted)


def name_of(step: story.Step) -> str:
    words = step.command.split()
    return words[1] if words[1] == "diff" else words[words.index("-f") + 1]


def by_function(sites: list[Any], figure: str = "bytes") -> Counter[str]:
    """Sums by the function that allocates. (Of the very first calls, stacks may break off further
    out, which makes sites of their own.)"""
    sums: Counter[str] = Counter()
    for site in sites:
        sums[site["frames"][0]["function"]] += site[figure]
    return sums


def test_the_steps() -> None:
    names = [name_of(step) for step in story.steps()[2:-1]]
    assert names == ["diff", "flamegraph", "html", "pprof"]


def test_the_comparison_has_the_figures_of_both_reports(replay: Replay) -> None:
    difference = replay.json("leaktrace diff run.gz@first run.gz@last")
    first = replay.json("leaktrace show run.gz --at first")
    last = replay.json("leaktrace show run.gz")
    outstanding = [report["outstanding"]["bytes"] for report in (first, last)]
    assert difference["difference"] == outstanding[1] - outstanding[0]
    assert (first["number"], last["number"]) == (1, REPORTS)
    before, after = (by_function(report["sites"]) for report in (first, last))
    assert set(after) == set(SIZES)
    assert after["add_product"] == 1000 * SIZES["add_product"]
    for function, size_bytes in after.items():
        assert size_bytes % SIZES[function] == 0
    changes = by_function(difference["sites"], "difference")
    assert changes["print_receipt"] > 0
    assert {function: changes[function] for function in SIZES} == {
        function: after[function] - before[function] for function in SIZES
    }
    # What was printed while it was traced, and by `leaktrace diff`, are the same totals.
    totals = re.findall(r"^outstanding ([\d.]+ \w+) in", replay.printed["trace"], re.MULTILINE)
    assert f"({totals[0]} -> {totals[-1]})" in " ".join(replay.printed["diff"].split())

    profile = read_pprof((replay.folder / "heap.pb.gz").read_bytes())
    held: Counter[str] = Counter()
    for stack, figure in profile.figures["inuse_space"].items():
        held[stack[-1]] += figure
    assert held == after
    younger = last["younger"]["bytes"]
    assert sum(held.values()) + younger == outstanding[1]
    total = re.search(r"100% of ([\d.]+)([kM]?B) total$", replay.printed["pprof"], re.MULTILINE)
    assert total is not None
    assert f"{sum(held.values()) / _UNITS[total[2]]:.2f}".removesuffix(".00") == total[1]


def test_readme_shows_what_is_printed(replay: Replay) -> None:
    source = story.SOURCE.read_text(encoding="utf-8").splitlines()
    shown = _FRAME.findall(replay.shown["diff"])
    assert len(shown) == 4
    printed = _FRAME.findall(replay.printed["diff"])
    at = printed.index(shown[0])
    assert printed[at : at + 4] == shown
    assert f"malloc({SIZES[shown[0][0]]})" in source[int(shown[0][1]) - 1]
    for (_, line), (callee, _) in zip(shown[1:], shown, strict=False):
        assert f"{callee}(" in source[int(line) - 1]
    culprit = f"print_receipt shop.c:{shown[0][1]}"
    assert replay.shown["trace"].count(culprit) == replay.shown["diff"].count(culprit) == 1
    functions = re.findall(r"% +(\w+)$", replay.shown["pprof"], re.MULTILINE)
    assert len(functions) == 3
    assert set(functions) < set(re.findall(r"% +(\w+)$", replay.printed["pprof"], re.MULTILINE))


def test_the_live_view_can_be_drawn(replay: Replay, tmp_path: Path) -> None:
    picture = tmp_path / "live.svg"
    draw_terminal(last_frame(replay.live), picture, 80, "dark")
    words = " ".join("".join(ElementTree.parse(picture).getroot().itertext()).split())
    assert "print_receipt" in words
    assert "quit" in words
    # It loads nothing.
    links = re.findall('https?:[^"]*|url\\((?!#)', picture.read_text(encoding="utf-8"))
    assert links == ["http://www.w3.org/2000/svg"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not Path(CHROMIUM).exists():
        pytest.skip("needs chromium")
    with chromium() as started:
        yield started


def test_the_pages_open(replay: Replay, browser: Any) -> None:
    last = replay.json("leaktrace show run.gz")
    with opened(browser, replay.folder / "flame.html") as seen:
        boxes = seen.page.locator("g.frame")
        boxes.first.wait_for()
        names = boxes.evaluate_all("all => all.map(one => one.getAttribute('name'))")
        assert {*SIZES, "check_out", "serve_visitor", "main"} <= set(names)
    with opened(browser, replay.folder / "report.html") as seen:
        assert "print_receipt" in seen.texts("#sites .function")
        assert len(seen.texts("#sites tr.row")) == len(last["sites"])
        assert seen.page.locator("#chart svg").is_visible()
