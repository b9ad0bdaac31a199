"""The chart of an HTML page: values over time, which `pages/report_chart.js` draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Layer:
    """An area. It lies on those before it."""

    name: str
    series: int  # its colour, 1 to 3
    values: Sequence[int]
    is_part: bool = True  # of what the line shows: the rest is what no such layer has


@dataclass(frozen=True)
class Line:
    """Values that may be unknown (None)."""

    name: str
    values: Sequence[int | None]
    is_change: bool = False  # since the first one
    is_counted: bool = False  # not bytes


@dataclass(frozen=True)
class Chart:
    """Layers with a line in the same unit, and below them another line with a scale of its own."""

    title: str
    times_s: Sequence[float]
    layers: Sequence[Layer]
    is_counted: bool  # the layers have no sizes
    about: str = ""  # the mark of the layers' figures, if they are estimates
    line: Line | None = None
    below: Line | None = None

    def data(self) -> dict[str, Any]:
        """As JSON, for the page."""
        return {
            "title": self.title,
            "time": [round(one, 3) for one in self.times_s],
            "counted": self.is_counted,
            "about": self.about,
            "layers": [
                {
                    "name": one.name,
                    "series": one.series,
                    "values": list(one.values),
                    "part": one.is_part,
                }
                for one in self.layers
            ],
            "line": _line(self.line),
            "below": _line(self.below),
        }


def _line(line: Line | None) -> dict[str, Any] | None:
    if line is None or all(value is None for value in line.values):
        return None
    return {
        "name": line.name,
        "values": list(line.values),
        "change": line.is_change,
        "counted": line.is_counted,
    }
