"""A flame graph as one HTML file, and one of the differences of two runs.

The page has all quantities of a report to choose from. `src/leaktrace/report/export/pages/flame.js`
draws it with d3-flame-graph; what it gets is the tree of `call_tree.py` with columns of values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from leaktrace import units
from leaktrace.analysis.quantities import Quantity
from leaktrace.model import Report
from leaktrace.printable import printable
from leaktrace.report.export import ExportOptions
from leaktrace.report.export.call_tree import CallTree
from leaktrace.report.export.pages import write_page
from leaktrace.report.export.remarks import remarks, title
from leaktrace.report.figures import about, noun, quantity_in_words, total_in_words
from leaktrace.report.sections import section_name, shown_parts
from leaktrace.report.verdicts import verdict_lines
from leaktrace.site import Site, Stack
from leaktrace.verdict import LEAKING

STYLES = ("base.css", "flame.css")
SCRIPTS = ("base.js", "flame_data.js", "flame.js")

_WIDE = 100_000  # columns: one line
_HOUR_S = 3600
HELD = "held"
GROWTH = "growth"


class FlameGraph:
    """The last report as a flame graph."""

    def __init__(self, options: ExportOptions) -> None:
        self._options = options
        self._report: Report | None = None

    def add(self, report: Report) -> None:
        """A flame graph shows one moment: the last."""
        self._report = report

    def write(self, output: BinaryIO) -> None:
        """Write the page. Raises OSError."""
        tree = CallTree()
        report = self._report
        parts = [] if report is None else [flame_part(part, tree) for part in shown_parts(report)]
        about = [] if report is None else _about(report)
        title = "leaktrace" if report is None else f"{target_in_words(report)}: flame graph"
        data = {
            "title": title,
            "about": about,
            "chosen": self._options.quantity.value,
            "parts": parts,
            "tree": tree.table(),
        }
        _write(output, title, data)


def create(options: ExportOptions) -> FlameGraph:
    """A flame graph that will show `options.quantity` first."""
    return FlameGraph(options)


@dataclass(frozen=True)
class Compared:
    """What a flame graph of differences compares, in words."""

    title: str  # such as "httpd: version 2 compared with version 1"
    base: str  # the name of the first run
    new: str
    quantity: Quantity = Quantity.IN_USE
    words: str = ""  # what the quantity is; "": as usual
    noun: str = "block"  # what is counted, in the singular


class DifferentialFlameGraph:
    """Two values for each stack: the colour of a frame says by how much they differ."""

    def __init__(self, changes: Iterable[tuple[Stack, int, int]], compared: Compared) -> None:
        self._changes = list(changes)
        self._compared = compared

    def write(self, output: BinaryIO) -> None:
        """Write the page. Raises OSError."""
        tree, compared = CallTree(), self._compared
        nodes = [tree.node(stack) for stack, _, _ in self._changes]
        base = [one for _, one, _ in self._changes]
        new = [one for _, _, one in self._changes]
        unit = "bytes" if compared.quantity.is_bytes else "blocks"
        columns = (
            ("new", printable(compared.new), new),
            ("base", printable(compared.base), base),
            ("more", "increase", [max(b - a, 0) for a, b in zip(base, new, strict=True)]),
            ("less", "decrease", [max(a - b, 0) for a, b in zip(base, new, strict=True)]),
        )
        part = {
            "name": compared.words or compared.quantity.in_words,
            "noun": compared.noun,
            "about": "",
            "nodes": nodes,
            "quantities": [
                {"key": key, "name": name, "unit": unit, "values": values}
                for key, name, values in columns
            ],
            "change": {"base": base, "new": new},
        }
        data = {
            "title": printable(compared.title),
            "about": [f"Red: more than in {printable(compared.base)}. Blue: less."],
            "chosen": "new",
            "parts": [part],
            "tree": tree.table(),
        }
        _write(output, printable(compared.title), data)


def create_differential(
    changes: Iterable[tuple[Stack, int, int]], compared: Compared
) -> DifferentialFlameGraph:
    """A flame graph of differences. `changes`: each stack with its value in the first run and in
    the second one, both 0 or more, in the unit of `compared.quantity`."""
    return DifferentialFlameGraph(changes, compared)


def part_name(part: Report) -> str:
    """What a part is about."""
    return section_name(part) if part.section is not None else "memory"


def flame_part(part: Report, tree: CallTree, sites: Sequence[Site] | None = None) -> dict[str, Any]:
    """One part of the report as a flame graph: the leaf of each site, and columns of values.
    `sites`: others than those of the part."""
    if sites is None:
        sites = part.sites
    return {
        "name": part_name(part),
        "noun": noun(part),
        "about": about(part),
        "nodes": [tree.node(site.stack) for site in sites],
        "quantities": [
            {"key": key, "name": name, "unit": unit, "values": values}
            for key, name, unit, of in _quantities(part)
            if any(values := [of(site) for site in sites]) or key == Quantity.IN_USE
        ],
    }


def _quantities(part: Report) -> Iterable[tuple[str, str, str, Callable[[Site], int]]]:
    """Key, name, unit and figure of what can be shown."""
    if any(site.regions is not None for site in part.sites):
        yield HELD, "bytes that take memory", "bytes", lambda site: site.held_bytes
    for quantity in Quantity:
        if quantity is Quantity.GROWTH or (part.is_counted and quantity.is_bytes):
            continue  # see below; the same as the number of objects
        unit = "bytes" if quantity.is_bytes else "blocks"
        yield quantity.value, quantity_in_words(quantity, part), unit, quantity.of
    unit = "blocks/h" if part.is_counted else "bytes/h"
    yield GROWTH, "growth of what is called growing", unit, _growth_per_hour


def _growth_per_hour(site: Site) -> int:
    verdict = site.verdict
    if verdict is None or verdict.kind not in LEAKING or not verdict.bytes_per_s:
        return 0
    return max(round(verdict.bytes_per_s * _HOUR_S), 0)


def target_in_words(report: Report) -> str:
    """The target's name, and its pid if it is a process."""
    target = report.target
    command = printable(target.command)
    return command if target.kind == "kernel" else f"{command} (pid {target.pid})"


def _about(report: Report) -> list[str]:
    lines = [line.plain for line in verdict_lines(report, _WIDE)]
    when = f"report {report.number} of {report.time:%Y-%m-%d %H:%M:%S %Z}"
    if report.measure.is_of_go:
        lines += [title(report), when, *remarks(report)]
        return lines
    lines.append(f"{when}, traced for {units.elapsed(report.elapsed_s)}")
    if report.younger.count:
        age = units.age(report.older_ms * 1_000_000)
        lines.append(f"left out: {total_in_words(report, report.younger)}, younger than {age}")
    shown = sum(site.bytes for site in report.sites)
    rest = report.outstanding.bytes - report.younger.bytes - shown
    if rest > 0 and not report.is_counted:
        lines.append(f"left out: {about(report)}{units.size(rest)} at sites that are not shown")
    for loss in report.losses:
        if loss.count and loss.is_lost:
            lines.append(printable(f"lost: {units.loss_in_words(loss)}"))
    return lines


def _write(output: BinaryIO, title: str, data: object) -> None:
    scripts = (*SCRIPTS, "flame_page.js")
    write_page(output, "flame.html", title=title, styles=STYLES, scripts=scripts, data=data)
