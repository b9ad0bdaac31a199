"""A diff in formats of other tools, by one quantity.

folded      `main;read_request;copy_token 4096 8192`, base and new, as difffolded.pl writes and
            flamegraph.pl reads it
pprof       a profile whose values are the differences, as `pprof -diff_base` shows
flamegraph  an HTML page: red has grown, blue has shrunk
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator, Mapping
from typing import BinaryIO

from leaktrace.analysis.comparing.as_report import difference_report
from leaktrace.analysis.comparing.changes import Diff
from leaktrace.printable import printable
from leaktrace.report.diff_notes import notes
from leaktrace.report.export import EXPORTS, ExportOptions
from leaktrace.report.figures import noun, quantity_in_words

# Those of `EXPORTS` that can show differences, with a line for --help.
DIFF_EXPORTS: Mapping[str, str] = {
    "folded": "one line per stack with two figures, for flamegraph.pl",
    "pprof": "a profile of the differences, for go tool pprof",
    "flamegraph": "an HTML page with a flame graph: red has grown",
}


def write_diff(name: str, diff: Diff, names: tuple[str, str], output: BinaryIO) -> None:
    """Write a diff in a format of `DIFF_EXPORTS`.

    Raises OSError, and EnvironmentUnfitError if the format needs a package that is missing.
    """
    match name:
        case "folded":
            _write_folded(diff, output)
        case "pprof":
            _write_pprof(diff, names, output)
        case _:
            _write_flame_graph(diff, names, output)


def left_out(name: str, diff: Diff) -> Iterator[str]:
    """What a format has no place for, in sentences."""
    if name != "pprof":
        for part in diff.parts[1:]:
            if not (part.changes or part.base.everything or part.new.everything):
                continue  # it has nothing
            section = printable(part.new.report.section or "a section")
            yield f"not in this format: {section}; use -f text, json or pprof"


def _write_folded(diff: Diff, output: BinaryIO) -> None:
    from leaktrace.report.export.folded import folded_stack  # noqa: PLC0415

    names: dict[int, str] = {}
    figures: dict[str, tuple[int, int]] = {}
    for change in diff.parts[0].changes:
        if change.base_value or change.new_value:
            stack = folded_stack(change.site, names)
            base, new = figures.get(stack, (0, 0))
            figures[stack] = base + change.base_value, new + change.new_value
    lines = "".join(f"{stack} {base} {new}\n" for stack, (base, new) in figures.items())
    output.write(lines.encode())


def _write_pprof(diff: Diff, names: tuple[str, str], output: BinaryIO) -> None:
    export = EXPORTS["pprof"].create(ExportOptions(diff.quantity))
    export.add(difference_report(diff))
    content = io.BytesIO()
    export.write(content)
    from leaktrace.report.export.pprof_schema import new_profile  # noqa: PLC0415 (needs protobuf)

    profile = new_profile()
    profile.ParseFromString(gzip.decompress(content.getvalue()))
    base, new = names
    for comment in (f"figures are differences: {new} less {base}", *notes(diff)):
        profile.comment.append(len(profile.string_table))
        profile.string_table.append(printable(comment))
    output.write(gzip.compress(profile.SerializeToString(), compresslevel=6, mtime=0))


def _write_flame_graph(diff: Diff, names: tuple[str, str], output: BinaryIO) -> None:
    from leaktrace.report.export.flamegraph import Compared, create_differential  # noqa: PLC0415

    base, new = names
    part = diff.parts[0]
    quantity = part.new.quantity  # of objects without sizes another one than was asked for
    compared = Compared(
        f"{diff.new.target.command}: {new} compared with {base}",
        base,
        new,
        quantity,
        quantity_in_words(quantity, diff.new),
        noun(diff.new),
    )
    changes = ((change.stack, change.base_value, change.new_value) for change in part.changes)
    create_differential(changes, compared).write(output)
