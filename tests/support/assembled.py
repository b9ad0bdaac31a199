"""Functions assembled for a test, and the points that are found in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from leaktrace.abi.process import Action, Function
from leaktrace.process.probes.allocators import HEAP, OPERATORS, REGIONS
from leaktrace.process.probes.point import Point
from leaktrace.process.probes.shape import Shape, Signature

SIGNATURES = {
    **{hook.function: hook.signature for hook in (*HEAP, *OPERATORS, *REGIONS)},
    Function.PAIR: Signature(Function.PAIR, Shape(size=2)),
}


@dataclass(frozen=True)
class Found:
    """Points by what they do; addresses are relative to labels of the source."""

    points: tuple[Point, ...]
    labels: Mapping[str, int]

    def at(self, label: str) -> Point:
        (point,) = (one for one in self.points if one.vaddr == self.labels[label])
        return point

    def where(self, action: Action) -> set[str]:
        names = {vaddr: name for name, vaddr in self.labels.items()}
        return {names[one.vaddr] for one in self.points if one.action is action}


Finder = Callable[..., Found]
Make = Callable[..., Path]  # a shared object that defines some functions and calls others


def function(name: str, body: str) -> str:
    head = f"    .globl {name}\n    .type {name}, @function\n{name}:\n"
    return f"{head}{body}\n    .size {name}, .-{name}\n"
