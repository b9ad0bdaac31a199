"""Make the pictures in docs/pictures from the story in README.md (make pictures; as root).

    python tests/pictures/make_pictures.py [--folder FOLDER] [--all FOLDER]

The commands of the story run in FOLDER, which is kept; a recording that is there already is shown
again. The pages are photographed in Chromium; the live view is drawn from what it has written to a
terminal. `--all` also makes pictures in other widths and in the other theme, to be looked at.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests/support")]

from browser import chromium  # noqa: E402
from drawing import draw_terminal, last_frame, photograph  # noqa: E402
from harness import story  # noqa: E402
from harness.target import Target  # noqa: E402
from harness.terminal import InTerminal  # noqa: E402

PICTURES = ROOT / "docs/pictures"
# Of the pictures of pages, in CSS pixels, and how many pixels each of these has.
WIDTHS = {"flame": (900, 1.5), "report": (1000, 1.0)}
COLUMNS, LINES = 100, 22  # of the terminal
LIVE_S = 24  # how long the live view watches before it is drawn


def record(folder: Path) -> None:
    """Run the story's commands, but the last one."""
    if not (folder / "examples").exists():
        story.prepare(folder)
    for step in story.steps()[:-1]:
        if " --record " in step.command and (folder / "run.gz").exists():
            continue
        print(f"$ {step.command}", flush=True)
        outcome = story.run(step.command, folder)
        if outcome.returncode != 0:
            sys.exit(outcome.stderr)
        print(outcome.stdout, flush=True)  # what README.md quotes is from the same run


def live_frame(folder: Path, columns: int) -> str:
    """What the live view of a shop shows after a while, with the stack of the first site."""
    print(f"$ leaktrace top, for {LIVE_S} s, {columns} columns", flush=True)
    with (
        Target([folder / story.PROGRAM]) as shop,
        InTerminal("top", "-p", str(shop.pid), size=(LINES, columns)) as live,
    ):
        live.until("print_receipt")
        live.watch(LIVE_S)
        live.press(b"\r")
        live.watch(1)
        frame = last_frame(live.painted)
        live.press(b"q")
        live.finish()
    return frame


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, help="where the story runs")
    parser.add_argument("--all", type=Path, help="where to put more pictures")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="story-"))
    try:
        make(folder, options.all)
    finally:
        if options.folder is None:
            shutil.rmtree(folder)


def make(folder: Path, more: Path | None) -> None:
    record(folder)
    PICTURES.mkdir(exist_ok=True)
    draw_terminal(live_frame(folder, COLUMNS), PICTURES / "live.svg", COLUMNS, "dark")
    with chromium() as browser:
        for name, (width, scale) in WIDTHS.items():
            page = folder / f"{name}.html"
            photograph(browser, page, PICTURES / f"{name}.png", width=width, scale=scale)
            if more is not None:
                for other in (500, width, 1800):
                    for theme in ("light", "dark"):
                        picture = more / f"{name}-{other}-{theme}.png"
                        photograph(browser, page, picture, width=other, theme=theme)
        if more is not None:
            for columns in (80, 200):
                frame = live_frame(folder, columns)
                for theme in ("light", "dark"):
                    picture = more / f"live-{columns}-{theme}.svg"
                    draw_terminal(frame, picture, columns, theme)
                    show_svg(browser, picture)
            show_svg(browser, PICTURES / "live.svg", more / "live.png")


def show_svg(browser: Any, picture: Path, to: Path | None = None) -> None:
    """An SVG file as a browser shows it."""
    page = browser.new_page(viewport={"width": 1200, "height": 700})
    page.goto(picture.as_uri())
    page.screenshot(path=to or picture.with_suffix(".png"))
    page.close()


if __name__ == "__main__":
    main()
