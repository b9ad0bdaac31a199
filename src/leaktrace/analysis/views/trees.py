"""The stacks of sites as a tree of functions.

    from the outermost callers down       main -> read_request -> copy_token
    from the allocating functions up      copy_token -> read_request -> main

A node's value is that of all sites whose stacks begin with the path to it. A tree is pruned:
nodes below a share of the whole are replaced by their number and their sum, so that the values of
what is listed below a node, what is folded there, and what it allocates itself make up its value.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from leaktrace.analysis.quantities import Quantity
from leaktrace.analysis.views.groups import Selection
from leaktrace.analysis.views.places import Grouping, Place, places_of
from leaktrace.site import Site

_ROOTS_ALWAYS = 3


class Direction(StrEnum):
    """The values are the words of the command line."""

    TREE = "tree"  # from the outermost callers down
    CALLERS = "callers"  # from the allocating functions up


@dataclass
class Node:
    """A function as called on one path."""

    place: Place
    value: int = 0
    own: int = 0  # of sites whose stack ends here
    children: dict[Place, Node] = field(default_factory=dict)


@dataclass(frozen=True)
class Folded:
    """Nodes of one parent that are not shown."""

    count: int  # of the nodes directly below the parent
    value: int


@dataclass(frozen=True)
class Line:
    """A node, or what is folded, with the number of its ancestors in the tree."""

    depth: int
    node: Node | Folded
    is_only: bool = (
        False  # no other node is below its parent, and the parent has nothing of its own
    )


@dataclass(frozen=True)
class Tree:
    """The tree of one part of a report."""

    direction: Direction
    selection: Selection
    roots: dict[Place, Node]

    def lines(self, least_share: float) -> list[Line]:
        """The nodes that make up at least this share of what is shown (0 to 1), in the order of
        the tree, the largest first; of the roots, at least the largest three."""
        least = self.selection.shown * least_share
        lines: list[Line] = []
        waiting = list(reversed(_level(self.roots.values(), 0, 0, least, _ROOTS_ALWAYS)))
        while waiting:
            line = waiting.pop()
            lines.append(line)
            if isinstance(line.node, Node):
                below = _level(line.node.children.values(), line.depth + 1, line.node.own, least)
                waiting.extend(reversed(below))
        return lines


def tree(selection: Selection, direction: Direction) -> Tree:
    """The selected sites as a tree of functions."""
    return Tree(direction, selection, _roots(selection.sites, selection.quantity, direction))


def _roots(sites: Iterable[Site], quantity: Quantity, direction: Direction) -> dict[Place, Node]:
    roots: dict[Place, Node] = {}
    for site in sites:
        value = quantity.of(site)
        if not value:
            continue
        path = list(places_of(site, Grouping.FUNCTION))
        if direction is Direction.TREE:
            path.reverse()
        level, node = roots, None
        for place in path:
            node = level.get(place)
            if node is None:
                node = level[place] = Node(place)
            node.value += value
            level = node.children
        if node is not None:
            node.own += value
    return roots


def _level(
    nodes: Iterable[Node], depth: int, own: int, least: float, always: int = 0
) -> list[Line]:
    """The lines of sibling nodes. `own`: what their parent has itself; `always`: how many are
    shown, however small."""
    ordered = sorted(nodes, key=lambda node: (-node.value, str(node.place)))
    shown = [node for at, node in enumerate(ordered) if node.value >= least or at < always]
    is_only = len(ordered) == 1 and not own
    lines = [Line(depth, node, is_only) for node in shown]
    rest = ordered[len(shown) :]
    if rest:
        lines.append(Line(depth, Folded(len(rest), sum(node.value for node in rest)), is_only))
    return lines
