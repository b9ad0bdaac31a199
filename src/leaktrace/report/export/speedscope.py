"""--format speedscope: JSON for https://www.speedscope.app, one profile per quantity.

https://github.com/jlfwong/speedscope/blob/main/src/lib/file-format-spec.ts. Each section has
profiles of its own. Figures above 2^53 are rounded by speedscope, whose numbers are floats.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

from leaktrace import __version__
from leaktrace.analysis.quantities import Quantity
from leaktrace.analysis.views.parts import sites_of
from leaktrace.model import Report
from leaktrace.printable import printable
from leaktrace.report.export.remarks import title
from leaktrace.report.export.sites import STACK_NOT_KNOWN, frame_name, sections_of
from leaktrace.report.figures import quantity_in_words
from leaktrace.site import Frame

if TYPE_CHECKING:
    from leaktrace.report.export import ExportOptions

SCHEMA = "https://www.speedscope.app/file-format-schema.json"


def create(_options: ExportOptions) -> SpeedscopeExport:
    return SpeedscopeExport()


class SpeedscopeExport:
    """The last report, with all quantities."""

    def __init__(self) -> None:
        self._last: Report | None = None

    def add(self, report: Report) -> None:
        self._last = report

    def write(self, output: BinaryIO) -> None:
        frames = _Frames()
        profiles = [] if self._last is None else list(_profiles(self._last, frames))
        content = {
            "$schema": SCHEMA,
            "exporter": f"leaktrace {__version__}",
            "name": "" if self._last is None else title(self._last),
            "activeProfileIndex": 0,
            "shared": {"frames": frames.objects},
            "profiles": profiles,
        }
        # ASCII; names have no surrogates left that would make it invalid.
        output.write(json.dumps(content, separators=(",", ":"), allow_nan=False).encode("ascii"))


class _Frames:
    """The frames of all profiles, each stored once."""

    def __init__(self) -> None:
        self.objects: list[dict[str, str]] = []
        self._places: dict[tuple[str, str], int] = {}
        self._known: dict[int, int] = {}  # by identity of frames, which stacks share

    def of(self, frame: Frame) -> int:
        """Its index."""
        place = self._known.get(id(frame))
        if place is None:
            file = "" if frame.source is None else printable(frame.source.file)
            place = self._known[id(frame)] = self._place(frame_name(frame), file)
        return place

    def unknown(self) -> int:
        """The index of the frame of stacks that could not be stored."""
        return self._place(STACK_NOT_KNOWN, "")

    def _place(self, name: str, file: str) -> int:
        """Lines are left out: speedscope would draw a function once for each line in it."""
        place = self._places.get((name, file))
        if place is None:
            place = self._places[name, file] = len(self.objects)
            self.objects.append({"name": name, "file": file} if file else {"name": name})
        return place


def _profiles(report: Report, frames: _Frames) -> Iterator[dict[str, Any]]:
    """The profiles of a report, then of its sections. Those without figures are left out, except
    of what is in use: speedscope needs one profile at least."""
    for section, part in (("", report), *sections_of(report)):
        stacks = [
            [frames.of(frame) for frame in reversed(site.stack.frames)] or [frames.unknown()]
            for site in sites_of(part)
        ]
        for quantity in Quantity:
            if quantity is Quantity.GROWTH or (quantity.is_bytes and part.is_counted):
                continue  # the format has no unit for rates
            figures = [quantity.of(site) for site in sites_of(part)]
            shown = [at for at, figure in enumerate(figures) if figure]
            if not shown and (section or quantity not in (Quantity.IN_USE, Quantity.IN_USE_BLOCKS)):
                continue
            words = quantity_in_words(quantity, part)
            yield {
                "type": "sampled",
                "name": f"{section}: {words}" if section else words,
                "unit": "bytes" if quantity.is_bytes else "none",
                "startValue": 0,
                "endValue": sum(figures),
                "samples": [stacks[at] for at in shown],
                "weights": [figures[at] for at in shown],
            }
