"""Names in a report: shortened, wrapped, measured in terminal cells (wcwidth), not characters."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import PurePosixPath

from rich.cells import cell_len

from leaktrace.printable import ELLIPSIS, printable
from leaktrace.site import Frame

LOST_STACK = "stack information lost"  # memleak's words


@lru_cache(maxsize=1024)
def module_name(module: str) -> str:
    """The module as frames show it: the last part of its path, "[vdso]" without brackets."""
    name = PurePosixPath(module).name or module
    return printable(name.removeprefix("[").removesuffix("]") if name[:1] == "[" else name)


def physical(frames: Iterable[Frame]) -> Iterable[Frame]:
    """The physical frames: without those that the compiler inlined."""
    return (frame for frame in frames if not frame.inlined)


def shorten_middle(text: str, cells: int) -> str:
    """`text` in at most `cells` terminal cells, the middle replaced by "...".

    The end keeps the larger part: in a qualified name the function comes last. Text of combining
    characters, which take no cells, is cut, too.
    """
    if cell_len(text) <= cells and len(text) <= 2 * cells:
        return text
    if cells <= len(ELLIPSIS):
        return ELLIPSIS[:cells]
    room = cells - len(ELLIPSIS)
    head = _take(text, room * 2 // 5)
    tail = _take(text[::-1], room - cell_len(head))[::-1]
    # Together, the parts may be wider or narrower than apart (emoji sequences).
    while tail and cell_len(head + ELLIPSIS + tail) > cells:
        tail = tail[1:]
    return head + ELLIPSIS + tail


def _take(text: str, cells: int) -> str:
    """The longest prefix of `text` that fits in `cells`, and in twice as many characters."""
    taken = 0
    for index, char in enumerate(text):
        taken += cell_len(char)
        if taken > cells or index >= 2 * cells:
            return text[:index]
    return text


def shorten_folders(path: str, cells: int) -> str:
    """`path` with leading directories removed until it fits: `.../http/parser.c:118`.

    The file's name is never shortened, so the result may still be wider than `cells`.
    """
    parts = path.split("/")
    shorter = path
    for first in range(1, len(parts)):
        if cell_len(shorter) <= cells:
            break
        shorter = f"{ELLIPSIS}/{'/'.join(parts[first:])}"
    return shorter


def shorten_path(path: str, cells: int) -> str:
    """`path` in at most `cells` cells, without leading directories, then without the middle."""
    return shorten_middle(shorten_folders(path, cells), cells)


def wrap(text: str, width: int) -> list[str]:
    """`text` broken at spaces into lines of at most `width` cells; long words are shortened."""
    lines: list[str] = []
    line = ""
    for word in text.split():
        fitting = shorten_middle(word, width)
        candidate = f"{line} {fitting}" if line else fitting
        if cell_len(candidate) > width:
            lines.append(line)
            candidate = fitting
        line = candidate
    return [*lines, line] if line else lines
