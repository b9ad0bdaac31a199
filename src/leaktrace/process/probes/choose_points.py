"""Which points a function gets: the cheapest that see each call begin and end once.

Ends cut all paths from where the result becomes known to where the function is left. Begins cut all
paths to a call that may allocate, or to an end that doesn't know the size. See docs/points.md.
"""

from __future__ import annotations

from collections.abc import Mapping

from leaktrace.abi.process import Action, Function, Outcome
from leaktrace.arch.x86_64 import ARGUMENTS, RBP, RSP, may_have_shadow_stacks
from leaktrace.arch.x86_64_code import may_carry_probe
from leaktrace.process.probes.code.cut import UNCUTTABLE, cheapest_cut
from leaktrace.process.probes.code.flow import Exit, Flow, UnfollowableError
from leaktrace.process.probes.code.values import (
    Argument,
    CallersRbp,
    Constant,
    Place,
    Places,
    Product,
    Register,
    Slot,
    Value,
    Values,
)
from leaktrace.process.probes.paths import Node, Paths
from leaktrace.process.probes.placement import (
    MAX_PROLOGUE,
    place,
)
from leaktrace.process.probes.point import Point
from leaktrace.process.probes.shape import Shape, Signature

_EMULATED, _STEPPED = 10, 1000
_NOT_BOTH = 2  # an end needs a begin
_ONE_DIRECTION = 3  # the probe is also hit in the other direction
_ON_THE_FAST_PATH = 500  # a begin on a path for which a both point is enough


def _sizes_of(signature: Signature) -> tuple[Value, ...]:
    """The size, or two factors of it, for functions that a both point can follow: their other
    arguments don't matter."""
    if signature.function is Function.PAIR and not signature.shape.size:
        return (Constant(1),)  # an object that has no size
    if signature.function in (Function.SHMAT, Function.BRK):
        return (Constant(0),)  # it is known from elsewhere
    return _size_or_factors(signature.shape) if signature.takes_only_sizes else ()


def _size_or_factors(shape: Shape) -> tuple[Argument, ...]:
    size = Argument(shape.size - 1)
    return (Argument(shape.count - 1), size) if shape.count else (size,)


def _product_of(shape: Shape) -> Product:
    first, second = sorted((shape.count - 1, shape.size - 1))
    return Product(first, second)


def _handed_on(own: Signature, other: Signature) -> tuple[tuple[Value, ...], tuple[Argument, ...]]:
    """What a call that is passed on to another function is made of, and the arguments in which the
    other one expects it; () where the two are not alike."""
    shape, there = own.shape, other.shape
    if (
        own.maps != other.maps
        or (own.maps and not own.takes_only_sizes)
        or (shape.memptr or there.memptr)
        or bool(shape.old) != bool(there.old)
        or not (shape.size and there.size)
        or not shape.outcome == there.outcome == Outcome.BLOCK
    ):
        return (), ()
    old = (Argument(shape.old - 1),) if shape.old else ()
    old_there = (Argument(there.old - 1),) if there.old else ()
    if shape.count and not there.count:
        return (*old, _product_of(shape)), (*old_there, *_size_or_factors(there))
    return (*old, *_size_or_factors(shape)), (*old_there, *_size_or_factors(there))


class Chooser:
    """Chooses the points of one function."""

    def __init__(
        self,
        flow: Flow,
        values: Values,
        signature: Signature,
        others: Mapping[int | str, Signature],
    ) -> None:
        self.paths = Paths(flow, values)
        self._flow = flow
        self._values = values
        self._signature = signature
        self._others = others
        self._allocating = [node for node in self.paths.after if self.paths.allocates(node)]
        self._before_allocating = self.paths.behind(self._allocating)

    def choose(self) -> tuple[Point, ...]:
        """The points. Raises UnfollowableError with the reason where there are none."""
        ends = self._ends()
        # Reached without a call that may allocate, on some path: otherwise a begin came before.
        alone = self.paths.ahead([self.paths.entry], self.paths.allocates)
        both = {
            node
            for node in ends
            if node in alone and self._sizes_at(node.at) and not self.fails(node)
        }
        begins = self._begins(ends - both, both)
        points = [*begins]
        for node in sorted(ends, key=lambda node: (node.at, node.towards or 0)):
            if node in both:
                points.append(self._point(node, Action.BOTH))
            else:
                points.append(self._point(node, Action.END))
        if self.is_of_pair:
            points += self._leaves(ends)
        return tuple(points)

    @property
    def is_of_pair(self) -> bool:
        """Whether the user named the function."""
        return self._signature.function is Function.PAIR

    def _leaves(self, ends: set[Node]) -> list[Point]:
        """Where a function that the user named jumps through a pointer. What such a call returns
        isn't seen, so it is counted as lost. (An allocator's own functions jump to each other.)"""
        leaves = [node for node in self.paths.after if self.paths.exit(node) is Exit.POINTER]
        for node in leaves:
            if not ends or self._cost(node) >= UNCUTTABLE:
                raise UnfollowableError("it jumps to code that only the running process knows")
        return [self._point(node, Action.LEAVE) for node in leaves]

    def fails(self, node: Node) -> bool:
        """Whether the function fails on the path through a node."""
        state = self._values.before[node.at]
        held = (
            place if isinstance(place, Constant) else state.get(place)
            for place in self.paths.result(node) or ()
        )
        return any(
            isinstance(value, Constant) and self._signature.is_failure(value.value)
            for value in held
        )

    # --- ends -----------------------------------------------------------------------------------

    def _ends(self) -> set[Node]:
        resolved = {node for node in self.paths.after if self.paths.result(node)}
        sinks = [node for node in resolved if self.paths.exit(node)]
        if not sinks:
            return set()
        sources = [
            node
            for node in resolved
            if node == self.paths.entry
            or any(before not in resolved for before in self.paths.before[node])
        ]
        costs = {node: self._end_cost(node) for node in resolved}
        found = cheapest_cut(costs, self.paths.after, sources, sinks, once=True)
        if found is None:
            raise UnfollowableError("no instruction has its result on every path")
        return found

    def _end_cost(self, node: Node) -> int:
        if (
            node in self.paths.cyclic
            or node in self._before_allocating
            or self._values.frame(node.at) is None
            or (self._signature.shape.memptr and not self._is_epilogue(node))
        ):
            return UNCUTTABLE
        cost = self._cost(node)
        if self.fails(node) and cost < UNCUTTABLE:
            # Failures are rare. It matters that calls that don't fail hit none of their probes.
            return _EMULATED if node.towards is None else _STEPPED
        return cost if self._sizes_at(node.at) else cost + _NOT_BOTH

    def _cost(self, node: Node) -> int:
        instruction = self._flow.instructions[node.at]
        if not may_carry_probe(instruction, shadow_stacks=may_have_shadow_stacks()):
            return UNCUTTABLE
        if not instruction.is_emulated:
            return _STEPPED
        return _EMULATED if node.towards is None else _EMULATED + _ONE_DIRECTION

    def _is_epilogue(self, node: Node) -> bool:
        """Whether nothing is written after a node: *memptr has its final value."""
        return not any(
            operand.is_memory and operand.is_written
            for behind in self.paths.ahead([node])
            for operand in self._flow.instructions[behind.at].operands
        )

    # --- begins ---------------------------------------------------------------------------------

    def _sizes_at(self, at: int) -> tuple[Place, ...]:
        """Where the size is; () if that isn't known, or if other functions share the code."""
        wanted = _sizes_of(self._signature)
        if not wanted or at in self._values.shared or self._values.frame(at) is None:
            return ()
        if len(wanted) == 2:
            product = self._values.place_of(at, _product_of(self._signature.shape))
            if product is not None:
                return (product,)
        places = [
            value if isinstance(value, Constant) else self._values.place_of(at, value)
            for value in wanted
        ]
        known = tuple(place for place in places if place is not None)
        return known if len(known) == len(wanted) else ()

    def _begins(self, ends: set[Node], both: set[Node]) -> tuple[Point, ...]:
        """Where calls open, on every path before a call that may allocate and before an end."""
        targets = {node for node in ends if not self.fails(node)} | set(self._allocating)
        targets |= {node for node in self.paths.after if self._must_be_open(node)}
        if not targets:
            return ()
        if both:
            fast = self.paths.behind(both, stop=self.paths.allocates)
            costs = {
                node: self._begin_cost(node) + (_ON_THE_FAST_PATH if node in fast else 0)
                for node in self.paths.after
            }
            found = cheapest_cut(costs, self.paths.after, [self.paths.entry], targets, once=False)
            if found is not None:
                return tuple(self._point(node, Action.BEGIN) for node in sorted(found))
        return (self._entry_point(),)

    def _must_be_open(self, node: Node) -> bool:
        """Whether a jump to another hooked function passes changed arguments on, or a jump leads to
        code that may be hooked."""
        exit_ = self.paths.exit(node)
        return exit_ is Exit.POINTER or (exit_ is Exit.HOOKED and not self.hands_on(node))

    def hands_on(self, node: Node) -> bool:
        """Whether a hooked function that is jumped to gets the same size as this one."""
        other = self._others.get(self._flow.handed_to[node.at])
        if other is None:
            return False
        state = self._values.before[node.at]
        wanted, places = _handed_on(self._signature, other)
        return len(wanted) == len(places) > 0 and all(
            state.get(Register(ARGUMENTS[there.index])) == here
            for here, there in zip(wanted, places, strict=True)
        )

    def _begin_cost(self, node: Node) -> int:
        return self._cost(node) if self._sizes_at(node.at) else UNCUTTABLE

    def _entry_point(self) -> Point:
        entry = self._flow.entry
        line: list[bytes] = []
        at = entry
        while at in self._flow.instructions and len(line) < MAX_PROLOGUE:
            line.append(self._flow.instructions[at].code)
            at = self._flow.instructions[at].end
        placement = place(b"".join(line), self._signature.argument_count, whole=b"")
        if placement.refused:
            raise UnfollowableError(placement.reason)
        at = entry + placement.offset
        if Node(at) in self.paths.cyclic:
            raise UnfollowableError("it jumps back to its entry")
        return Point(
            vaddr=at,
            action=Action.BEGIN,
            function=self._signature.function,
            shape=self._signature.shape,
            instruction=self._flow.instructions[at].text,
            emulated=placement.emulated,
            frame=(RSP, 8),
            callers_rbp=Register(RBP),
            by_arguments=True,
            # A hook that is set up at the first call repeats it (__malloc_hook, glibc until 2.33).
            may_begin_again=Exit.POINTER in self._flow.exits.values(),
        )

    def _point(self, node: Node, action: Action) -> Point:
        instruction = self._flow.instructions[node.at]
        frame = self._values.frame(node.at)
        assert frame is not None  # otherwise it can't be cut
        condition = None
        if node.towards is not None:
            assert instruction.condition is not None
            # The lowest bit of a condition code inverts it.
            is_taken = node.towards == instruction.target
            condition = instruction.condition if is_taken else instruction.condition ^ 1
        return Point(
            vaddr=node.at,
            action=action,
            function=self._signature.function,
            shape=self._signature.shape,
            instruction=instruction.text,
            emulated=instruction.is_emulated,
            frame=frame,
            callers_rbp=self._values.place_of(node.at, CallersRbp()),
            sizes=self._sizes_at(node.at) if action in (Action.BEGIN, Action.BOTH) else (),
            result=(
                _handiest(self.paths.result(node)) if action in (Action.END, Action.BOTH) else None
            ),
            condition=condition,
            may_be_unopened=action in (Action.END, Action.LEAVE)
            and (node.at in self._values.shared or self.fails(node)),
            towards=node.towards,
        )


def _handiest(places: Places) -> Place:
    assert places  # points are where the result is
    by_kind = {kind: [p for p in places if isinstance(p, kind)] for kind in (Register, Slot)}
    for kind in (Register, Slot):
        if by_kind[kind]:
            return min(by_kind[kind], key=repr)
    return next(iter(places))
