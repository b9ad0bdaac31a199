"""Reports of `--format json` (leaktrace/report/1), with queries for tests."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

# Losses of stack walks: the allocation is counted anyway.
WALKS = {
    "truncated_stacks",
    "guessed_stacks",
    "unmapped_code",
    "untabled_code",
    "generated_code",
    "inexpressible_rules",
    "unreadable_stacks",
    "misordered_frames",
    "foreign_probes",
}


@dataclass(frozen=True)
class Total:
    """Bytes in allocations."""

    bytes: int = 0
    count: int = 0


@dataclass(frozen=True)
class Frame:
    function: str | None
    module: str | None
    file: str | None
    line: int | None
    unknown: str | None
    inlined: bool


@dataclass(frozen=True)
class Site:
    raw: dict[str, Any]
    frames: tuple[Frame, ...]

    @property
    def total(self) -> Total:
        return Total(self.raw["bytes"], self.raw["count"])

    @property
    def functions(self) -> tuple[str | None, ...]:
        return tuple(frame.function for frame in self.frames)


class Report:
    """One report, as leaktrace wrote it."""

    def __init__(self, line: str) -> None:
        self.raw: dict[str, Any] = json.loads(line)
        assert self.raw["schema"] == "leaktrace/report/1"
        self.sites = tuple(_site(raw) for raw in self.raw["sites"])

    @property
    def outstanding(self) -> Total:
        return Total(self.raw["outstanding"]["bytes"], self.raw["outstanding"]["count"])

    @property
    def younger(self) -> Total:
        return Total(self.raw["younger"]["bytes"], self.raw["younger"]["count"])

    @property
    def final(self) -> bool:
        return bool(self.raw["final"])

    @property
    def losses(self) -> dict[str, int]:
        """What was lost, kinds that are zero left out."""
        return {name: count for name, count in self.raw["losses"].items() if count}

    @property
    def lost_allocations(self) -> dict[str, int]:
        """The losses that affect figures; broken stacks are known by their ends."""
        return {name: count for name, count in self.losses.items() if name not in WALKS}

    def sites_under(self, function: str) -> tuple[Site, ...]:
        """Sites that have this function anywhere on their stack."""
        return tuple(site for site in self.sites if function in site.functions)

    @staticmethod
    def sites_of(section: dict[str, Any]) -> tuple[Site, ...]:
        """The sites of another section of a report about the kernel."""
        return tuple(_site(raw) for raw in section["sites"])

    def under(self, function: str) -> Total:
        """What is outstanding from below this function."""
        return total(self.sites_under(function))


def total(sites: tuple[Site, ...]) -> Total:
    return Total(sum(site.total.bytes for site in sites), sum(site.total.count for site in sites))


def _site(raw: dict[str, Any]) -> Site:
    return Site(
        raw,
        tuple(
            Frame(
                frame.get("function"),
                frame.get("module"),
                frame.get("file"),
                frame.get("line"),
                frame.get("unknown"),
                bool(frame.get("inlined", False)),
            )
            for frame in raw["frames"]
        ),
    )
