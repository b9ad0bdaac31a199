"""The proof that the points of a function see each call begin and end once.

It is independent of the choice of points: it follows every path with the points on it.
"""

from __future__ import annotations

from collections.abc import Iterable

from leaktrace.abi.process import Action
from leaktrace.process.probes.choose_points import Chooser
from leaktrace.process.probes.code.flow import Exit, UnfollowableError
from leaktrace.process.probes.paths import Node
from leaktrace.process.probes.point import Point

_NOTHING, _OPEN, _DONE = 1, 2, 4  # how far a call has been followed


def prove(points: Iterable[Point], chooser: Chooser) -> None:
    """Follow every path with the points on it: each call must be seen to begin and then to end,
    once, and no call that may allocate may be outside. Raises UnfollowableError otherwise.
    """
    paths = chooser.paths
    at_node: dict[Node, list[Point]] = {}
    for point in points:
        at_node.setdefault(Node(point.vaddr, point.towards), []).append(point)
    before = {paths.entry: _NOTHING}
    waiting = [paths.entry]
    while waiting:
        node = waiting.pop()
        state = before[node]
        for point in at_node.get(node, ()):
            state = _passed(point, state)
        if paths.allocates(node) and state & ~_OPEN:
            raise UnfollowableError("a call that may allocate is made outside of the points")
        exit_ = paths.exit(node)
        if exit_ in (Exit.RETURN, Exit.FIRST_ARGUMENT):
            if state & ~_DONE:
                raise UnfollowableError("a path out of it has no end point")
        elif exit_ is Exit.HOOKED and (
            state & _DONE or (state & _NOTHING and not chooser.hands_on(node))
        ):
            raise UnfollowableError("it passes changed arguments on")
        elif exit_ is Exit.POINTER and state & ~(_DONE if chooser.is_of_pair else _OPEN):
            raise UnfollowableError(
                "it continues at an address that only the running process knows"
            )
        for following in paths.after[node]:
            known = before.get(following, 0)
            if known | state != known:
                before[following] = known | state
                waiting.append(following)


def _passed(point: Point, state: int) -> int:
    match point.action:
        case Action.BEGIN:
            if state & _DONE or (state & _OPEN and point.by_arguments):
                raise UnfollowableError("a call would be seen to begin twice")
            return _OPEN
        case Action.END | Action.LEAVE:
            if state & _DONE:
                raise UnfollowableError("a call would be seen to end twice")
            if state & _NOTHING and not point.may_be_unopened:
                raise UnfollowableError("a call would be seen to end that was not seen to begin")
            return _DONE
        case Action.BOTH:
            if state & _DONE:
                raise UnfollowableError("a call would be seen to end twice")
            return _DONE
