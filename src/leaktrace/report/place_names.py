"""Names of what the figures of a view are grouped by, for people and for programs."""

from __future__ import annotations

from typing import Any

from rich.cells import cell_len

from leaktrace import units
from leaktrace.analysis.quantities import Quantity
from leaktrace.analysis.views.places import Grouping, Place
from leaktrace.printable import printable
from leaktrace.report.function_names import shorten_symbol
from leaktrace.report.names import module_name, shorten_middle, shorten_path

_LONGEST_MODULE = 28
_KIB = 1024
_UNKNOWN = {
    Grouping.FUNCTION: "(stack not known)",
    Grouping.MODULE: "(code in no file)",
    Grouping.LINE: "(stack not known)",
    Grouping.PROCESS: "(process not known)",
    Grouping.SIZE: "(size not known)",
}


def place_name(place: Place, grouping: Grouping, cells: int) -> str:
    """In at most `cells` terminal cells: "parse_header [libparse.so.1]", "http/parser.c:118"."""
    if not place.is_known:
        return shorten_middle(_UNKNOWN.get(grouping, ""), cells)
    if grouping is Grouping.PROCESS:
        return shorten_middle(f"pid {place.pid}", cells)
    if place.below_bytes is not None:
        return shorten_middle(_sizes_in_words(place.below_bytes), cells)
    if grouping is Grouping.MODULE:
        return shorten_path(printable(place.module or ""), cells)
    if place.file is not None:
        return shorten_path(f"{printable(place.file)}:{place.line}", cells)
    module = "" if place.module is None else module_name(place.module)
    if place.function is not None:
        return with_module(place.function, place.module, cells)
    offset = f"{place.offset:#x}" if place.offset is not None else ""
    return shorten_middle(f"[{module}+{offset}]" if module else offset, cells)


def _sizes_in_words(below_bytes: int) -> str:
    """Such as "64 B to 127 B", "4 KiB to below 8 KiB"."""
    least, most = below_bytes // 2, below_bytes - 1
    if least == most:
        return f"{least} B"
    if below_bytes <= _KIB:
        return f"{least} B to {most:,} B"
    low, high = (units.size(one).replace(".0 ", " ") for one in (least, below_bytes))
    return f"{low} to below {high}"


def with_module(function: str, module: str | None, cells: int) -> str:
    """A function and, if there is room for both, its module."""
    name = printable(function)
    suffix = ""
    if module is not None:
        suffix = f" [{shorten_middle(module_name(module), _LONGEST_MODULE)}]"
    if cell_len(suffix) > cells // 2:
        suffix = ""
    return shorten_symbol(name, cells - cell_len(suffix)) + suffix


def place_object(place: Place) -> dict[str, Any]:
    """What is known of a place, for JSON."""
    shown: dict[str, Any] = {}
    for key in ("function", "module", "file"):
        text = getattr(place, key)
        if text is not None:
            shown[key] = printable(text)
    if place.line is not None:
        shown["line"] = place.line
    if place.offset is not None:
        shown["offset"] = f"{place.offset:#x}"
    if place.pid is not None:
        shown["pid"] = place.pid
    if place.site_id is not None:
        shown["site"] = place.site_id
    if place.below_bytes is not None:
        shown["from_bytes"] = place.from_bytes
        shown["below_bytes"] = place.below_bytes
    return shown


def value_in_words(value: int, quantity: Quantity, *, is_counted: bool = False) -> str:
    """Such as "12.0 MiB", "12.0 MiB/h", "12,288". `is_counted`: of objects without sizes."""
    per = "/h" if quantity is Quantity.GROWTH else ""
    return (units.size(value) if quantity.is_bytes and not is_counted else f"{value:,}") + per


def difference_in_words(value: int, quantity: Quantity) -> str:
    """The same with a sign."""
    return units.size_change(value) if quantity.is_bytes else f"{value:+,}"


def unit_of(quantity: Quantity, *, is_counted: bool = False) -> str:
    """For JSON: "bytes", "blocks", "bytes_per_hour" or "blocks_per_hour". `is_counted`: of objects
    without sizes."""
    if quantity is Quantity.GROWTH:
        return "blocks_per_hour" if is_counted else "bytes_per_hour"
    return "bytes" if quantity.is_bytes else "blocks"
