"""The paths through a function as a graph: of instructions, and of the directions of jumps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from leaktrace.process.probes.code.backward import result_towards
from leaktrace.process.probes.code.flow import Exit, Flow
from leaktrace.process.probes.code.values import Places, Values


class Node(NamedTuple):
    """A place for a point: before an instruction, or a conditional jump in one of its directions,
    which the BPF program recognizes by the flags."""

    at: int
    towards: int | None = None


class Paths:
    """A flow as a graph of nodes."""

    def __init__(self, flow: Flow, values: Values) -> None:
        self.flow = flow
        self.values = values
        self.entry = Node(flow.entry)
        self.after: dict[Node, tuple[Node, ...]] = {}
        for at in flow.order:
            if at in values.before:
                self._add(at)
        self.before: dict[Node, list[Node]] = {node: [] for node in self.after}
        for node, following in self.after.items():
            for behind in following:
                self.before[behind].append(node)
        self.cyclic = _on_cycles(self)

    def _add(self, at: int) -> None:
        one = self.flow.instructions[at]
        following = [behind for behind in self.flow.after(at) if behind in self.values.before]
        if one.condition is None or len(following) < 2:
            self.after[Node(at)] = tuple(Node(behind) for behind in following)
            return
        self.after[Node(at)] = tuple(Node(at, behind) for behind in following)
        for behind in following:
            self.after[Node(at, behind)] = (Node(behind),)

    def result(self, node: Node) -> Places:
        """The places that hold the result at a node."""
        if node.towards is None:
            return self.values.result[node.at]
        return result_towards(self.flow, self.values, node.at, node.towards)

    def exit(self, node: Node) -> Exit | None:
        """How the function is left at a node."""
        return self.flow.exits.get(node.at) if node.towards is None else None

    def allocates(self, node: Node) -> bool:
        """Whether a call at a node may reach a hooked function and returns."""
        call = self.flow.calls.get(node.at) if node.towards is None else None
        return call is not None and call.may_allocate and self.values.result[node.at] is not None

    def ahead(self, start: Iterable[Node], stop: Callable[[Node], bool] | None = None) -> set[Node]:
        """The nodes reached from `start`, including it; none after a node that stops."""
        return _reached(self.after, start, stop)

    def behind(
        self, start: Iterable[Node], stop: Callable[[Node], bool] | None = None
    ) -> set[Node]:
        """The nodes from which `start` is reached, and itself; none before a node that stops."""
        reached: set[Node] = set()
        waiting = [*start]
        while waiting:
            node = waiting.pop()
            if node not in reached:
                reached.add(node)
                waiting += [one for one in self.before[node] if stop is None or not stop(one)]
        return reached


def _reached(
    following: Mapping[Node, Iterable[Node]],
    start: Iterable[Node],
    stop: Callable[[Node], bool] | None,
) -> set[Node]:
    reached: set[Node] = set()
    waiting = [*start]
    while waiting:
        node = waiting.pop()
        if node not in reached:
            reached.add(node)
            if stop is None or not stop(node):
                waiting += following[node]
    return reached


def _on_cycles(paths: Paths) -> set[Node]:
    """Nodes that a call may pass more than once (strongly connected components, Kosaraju)."""
    finished: list[Node] = []
    seen: set[Node] = set()
    for root in paths.after:
        stack: list[tuple[Node, bool]] = [(root, False)]
        while stack:
            node, is_done = stack.pop()
            if is_done:
                finished.append(node)
            elif node not in seen:
                seen.add(node)
                stack.append((node, True))
                stack += [(following, False) for following in paths.after[node]]
    cyclic: set[Node] = set()
    assigned: set[Node] = set()
    for root in reversed(finished):
        component: list[Node] = []
        waiting = [root]
        while waiting:
            node = waiting.pop()
            if node not in assigned:
                assigned.add(node)
                component.append(node)
                waiting += paths.before[node]
        if len(component) > 1 or root in paths.after[root]:
            cyclic.update(component)
    return cyclic
