"""A course of figures in one line: ▁▂▃▄▅▆▇█."""

from __future__ import annotations

from collections.abc import Iterable

_BLOCKS = "▁▂▃▄▅▆▇█"
_ASCII = "_.-=+*#@"
_FLAT = 0.001  # of the largest figure: a smaller range is a straight line


def sparkline(values: Iterable[int | None], cells: int, *, blocks: bool = True) -> str:
    """The last `cells` values, from the least of them to the largest; None, a value that is not
    known, is a gap. Shorter courses are padded on the left. `blocks`: whether the terminal can
    show them."""
    signs = _BLOCKS if blocks else _ASCII
    shown = list(values)[-cells:] if cells > 0 else []
    known = [value for value in shown if value is not None]
    if not known:
        return " " * cells
    least, largest = min(known), max(known)
    extent = largest - least
    is_flat = extent <= _FLAT * max(abs(least), abs(largest))
    line = ""
    for value in shown:
        if value is None:
            line += " "
        else:
            line += signs[0] if is_flat else signs[(value - least) * (len(signs) - 1) // extent]
    return line.rjust(cells)
