"""What was allocated between two moments and is still there, for programs:
`leaktrace/generations/1`.

The contract is `docs/json.md` with `docs/schema/generations-1.schema.json`: within version 1
fields are only ever added.
"""

from __future__ import annotations

from leaktrace.analysis.comparing.generations import Generation, Generations
from leaktrace.printable import printable
from leaktrace.report.diff_json import named_moment
from leaktrace.report.generations_text import generation_notes
from leaktrace.report.json_sites import Object, frame_object, kernel_fields, total_object

GENERATIONS_SCHEMA = "leaktrace/generations/1"


def generations_object(found: Generations, names: tuple[str, str, str], top: int) -> Object:
    """The JSON object; `top`: how many sites are listed."""
    reports = (found.begin, found.end, found.now)
    moments = [named_moment(*one) for one in zip(reports, names, strict=True)]
    return {
        "schema": GENERATIONS_SCHEMA,
        **dict(zip(("begin", "end", "now"), moments, strict=True)),
        "notes": list(generation_notes(found)),
        "at_least": total_object(found.at_least),
        "at_most": total_object(found.at_most),
        "site_count": len(found.sites),
        "sites": [_site(row) for row in found.sites[:top]],
    }


def _site(row: Generation) -> Object:
    shown: Object = {
        "id": printable(row.site.id),
        "allocated": None if row.allocated is None else total_object(row.allocated),
        "at_least": total_object(row.at_least),
        "at_most": total_object(row.at_most),
        "exact": row.is_exact,
        "frames": [frame_object(frame) for frame in row.site.stack.frames],
    }
    if row.site.context is not None:  # in the kernel
        shown |= kernel_fields(row.site, row.site.unconfirmed)
    return shown
