"""The cheapest set of nodes through which every path from sources to sinks leads.

Minimum cut by maximum flow (Ford and Fulkerson 1956; augmenting along shortest paths, Edmonds and
Karp 1972), with costs on nodes: each is split into an entry and an exit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable, Mapping
from typing import TypeVar

UNCUTTABLE = 1 << 40

N = TypeVar("N", bound=Hashable)


def cheapest_cut(
    costs: Mapping[N, int],
    following: Mapping[N, Iterable[N]],
    sources: Iterable[N],
    sinks: Iterable[N],
    *,
    once: bool,
) -> set[N] | None:
    """Nodes that cut all paths from the sources to the sinks, which may be in the cut.

    `costs` contains every node; those that can't be cut cost UNCUTTABLE. `once`: no path may lead
    through two nodes of the cut. None where there is no such cut.
    """
    graph = _Graph()
    for node, cost in costs.items():
        graph.connect((node, 0), (node, 1), cost, back=UNCUTTABLE if once else 0)
        for after in following.get(node, ()):
            if after in costs:
                graph.connect((node, 1), (after, 0), UNCUTTABLE, back=UNCUTTABLE if once else 0)
    for node in sources:
        graph.connect("source", (node, 0), UNCUTTABLE)
    for node in sinks:
        graph.connect((node, 1), "sink", UNCUTTABLE)
    reachable = graph.saturate("source", "sink")
    if reachable is None:
        return None
    return {node for node in costs if (node, 0) in reachable and (node, 1) not in reachable}


class _Graph:
    def __init__(self) -> None:
        self._left: dict[object, dict[object, int]] = {}

    def connect(self, one: object, other: object, capacity: int, back: int = 0) -> None:
        forth = self._left.setdefault(one, {})
        forth[other] = forth.get(other, 0) + capacity
        returning = self._left.setdefault(other, {})
        returning[one] = returning.get(one, 0) + back

    def saturate(self, source: object, sink: object) -> set[object] | None:
        """What can still be reached at maximum flow; None if the flow has no limit."""
        if source not in self._left or sink not in self._left:
            return {source}
        while True:
            came_from: dict[object, object] = {source: source}
            waiting = deque([source])
            while waiting and sink not in came_from:
                node = waiting.popleft()
                for other, left in self._left[node].items():
                    if left > 0 and other not in came_from:
                        came_from[other] = node
                        waiting.append(other)
            if sink not in came_from:
                return set(came_from)
            path = [sink]
            while path[-1] != source:
                path.append(came_from[path[-1]])
            steps = list(zip(path[1:], path, strict=False))
            amount = min(self._left[one][other] for one, other in steps)
            if amount >= UNCUTTABLE // 2:
                return None
            for one, other in steps:
                self._left[one][other] -= amount
                self._left[other][one] += amount
