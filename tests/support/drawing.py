"""Pictures of the pages, as Chromium shows them, and of the live view, as a terminal does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from browser import opened
from rich.console import Console
from rich.terminal_theme import DEFAULT_TERMINAL_THEME, SVG_EXPORT_THEME
from rich.text import Text

# As in rich, without fonts from the network: a picture must not load anything.
SVG = """\
<svg class="rich-terminal" viewBox="BOX" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; \
font-size: {char_height}px; line-height: {line_height}px; font-variant-east-asian: full-width; }}
{styles}
</style>
<defs>{lines}</defs>
<rect fill="BACKGROUND" x="-14" y="-12" width="100%" height="100%" rx="8"/>
<!-- {terminal_width} {terminal_height} -->
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</svg>
"""


def photograph(
    browser: Any, page: Path, picture: Path, *, width: int, scale: float = 1.0, theme: str = "light"
) -> None:
    """A page, `width` CSS pixels wide, each of `scale` pixels. Of the report: down to the sites."""
    options = {
        "viewport": {"width": width, "height": 760},
        "device_scale_factor": scale,
        "color_scheme": theme,
    }
    with opened(browser, page, **options) as seen:
        last = seen.page.locator("#sites" if page.stem == "report" else "footer")
        last.scroll_into_view_if_needed()
        seen.page.wait_for_timeout(500)  # until all is drawn
        seen.page.evaluate("window.scrollTo(0, 0)")
        box = last.bounding_box()
        assert box is not None
        end = box["y"] + box["height"] + (20 if page.stem == "report" else 0)
        seen.page.screenshot(
            path=picture, full_page=True, clip={"x": 0, "y": 0, "width": width, "height": end}
        )


def draw_terminal(frame: str, picture: Path, columns: int, theme: str) -> None:
    """A frame of the live view as SVG."""
    colours = SVG_EXPORT_THEME if theme == "dark" else DEFAULT_TERMINAL_THEME
    with Path("/dev/null").open("w") as nowhere:
        console = Console(record=True, width=columns, file=nowhere, force_terminal=True)
        for line in frame.splitlines():
            console.print(Text.from_ansi(line), no_wrap=True, crop=True)
        background = colours.background_color.hex
        text = console.export_svg(
            title="", theme=colours, code_format=SVG.replace("BACKGROUND", background)
        )
    # The text has the size that its comment says, and the picture an edge around it.
    size = re.search(r"<!-- ([0-9.]+) ([0-9.]+) -->\n", text)
    assert size is not None
    box = f"-14 -12 {float(size[1]) + 28:.0f} {float(size[2]) + 24:.0f}"
    text = text.replace(size[0], "").replace("BOX", box, 1)
    lines = (line.rstrip() for line in text.splitlines())
    picture.write_text("\n".join(line for line in lines if line) + "\n", encoding="utf-8")


def last_frame(painted: str) -> str:
    """What the live view shows after it has written this to its terminal: lines, with colours."""
    frames = painted.split("\x1b[?2026h\x1b[H")
    whole = [frame.partition("\x1b[K\x1b[J")[0] for frame in frames if "\x1b[?2026l" in frame]
    return whole[-1].replace("\x1b[K", "").replace("\r", "")
