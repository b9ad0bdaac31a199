"""Figures, as a table for people and as JSON for later comparison."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

from benchmarking.processes import BUILD
from benchmarking.tracers import UnavailableError
from leaktrace import __version__


@dataclass(frozen=True)
class Row:
    """One figure: the median of its samples, and the maximum that leaktrace aims for."""

    name: str
    samples: tuple[float, ...]
    unit: str
    at_most: float | None = None

    @property
    def value(self) -> float:
        return statistics.median(self.samples)

    def line(self) -> str:
        text = f"  {self.name:<58} {_number(self.value):>9} {self.unit:<9}"
        if len(self.samples) > 1:
            text += f" {_number(min(self.samples))}…{_number(max(self.samples))}"
        if self.at_most is not None:
            mark = "" if self.value <= self.at_most else "  OVER"
            text = f"{text:<94} at most {_number(self.at_most)}{mark}"
        return text.rstrip()


@dataclass
class Results:
    """The results of one benchmark. Each row is printed when it is added."""

    name: str
    rows: list[Row] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def title(self, text: str) -> None:
        print(f"\n{text}", flush=True)

    def add(
        self, name: str, samples: float | Sequence[float], unit: str, at_most: float | None = None
    ) -> Row:
        values = (samples,) if isinstance(samples, float | int) else tuple(samples)
        row = Row(name, values, unit, at_most)
        self.rows.append(row)
        print(row.line(), flush=True)
        return row

    def add_ratio(
        self,
        name: str,
        above: Sequence[float],
        below: Sequence[float],
        at_most: float | None = None,
    ) -> Row:
        """A row of the ratios per round: both figures of a round are affected by the same load."""
        return self.add(name, [a / b for a, b in zip(above, below, strict=True)], "x", at_most)

    def remark(self, text: str) -> None:
        self.remarks.append(text)
        print(f"  ({text})", flush=True)

    def save(self) -> None:
        """Write build/bench/NAME.json."""
        BUILD.mkdir(parents=True, exist_ok=True)
        document = {
            "benchmark": self.name,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "leaktrace": __version__,
            "kernel": platform.release(),
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            "load": os.getloadavg()[0],
            "rows": [asdict(row) | {"value": row.value} for row in self.rows],
            "remarks": self.remarks,
        }
        path = BUILD / f"{self.name}.json"
        path.write_text(json.dumps(document, indent=1) + "\n")
        print(f"\n  written to {os.path.relpath(path)}", flush=True)


def interleaved(
    rounds: int, ways: Mapping[str, Callable[[], float]], results: Results
) -> dict[str, list[float]]:
    """Measure each way once per round, starting with a different one each time. Unavailable ways
    are left out, with a remark."""
    samples: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            if name not in samples:
                continue
            try:
                samples[name].append(ways[name]())
            except UnavailableError as error:
                del samples[name]
                results.remark(str(error))
    return samples


def require_root() -> None:
    if os.geteuid() != 0:
        sys.exit("this benchmark traces processes: run it as root")


def _number(value: float) -> str:
    if value == 0 or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
