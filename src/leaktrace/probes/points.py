"""How to know the result of a call without touching its return address.

A return probe replaces the return address on the stack, and whatever unwinds through it (an
exception, a coroutine, a backtrace) meets the kernel's trampoline. So a call is followed by probes
inside the function, on instructions at which it is known, on every way through the function, where
the size that was asked for is, or where the result is:

- a *begin* point opens the call: the size is at hand, and nothing was called yet that may allocate,
- an *end* point closes it: the result is at hand, and nothing is called any more,
- at a *both* point size and result are at hand at once: one trap for the whole call.

The ways and places come from `probes/code`. Points are chosen by cost, on instructions that the
kernel emulates where there is one; then a second, independent pass over all ways checks that each
begins and ends its call once. A function that can't be followed has no points, and the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from leaktrace.abi import Action, Function
from leaktrace.elf import ElfObject
from leaktrace.errors import ObjectFileError
from leaktrace.probes.code.cut import UNCUTTABLE, cheapest_cut
from leaktrace.probes.code.flow import CodeReader, Exit, Flow, UnfollowableError
from leaktrace.probes.code.values import (
    Argument,
    CallersRbp,
    Constant,
    FrameAddress,
    Place,
    Places,
    Product,
    Register,
    Slot,
    Value,
    Values,
    analyse,
    can_return,
    result_towards,
)
from leaktrace.probes.code.x86 import ARGUMENTS, RBP, RSP
from leaktrace.probes.placement import may_carry_probe, may_have_shadow_stacks, place
from leaktrace.unwind.rows import CFA_OFFSET_UNIT, Row, Rule, SavedRbp

_EMULATED, _STEPPED = 10, 1000
_NOT_BOTH = 2  # an end takes a begin besides
_ONE_DIRECTION = 3  # half of what is seen at the jump doesn't matter
_MAX_PROLOGUE = 16  # instructions
_ON_THE_FAST_WAY = 500  # a begin on a way that a both point would serve alone

# Where the size stands among the arguments, for functions that a both point can serve: what else
# they are given doesn't matter.
_SIZES: Mapping[Function, tuple[Value, ...]] = {
    Function.MALLOC: (Argument(0),),
    Function.VALLOC: (Argument(0),),
    Function.PVALLOC: (Argument(0),),
    Function.OPERATOR_NEW: (Argument(0),),
    Function.MALLOCX: (Argument(0),),
    Function.ALIGNED_ALLOC: (Argument(1),),
    Function.MEMALIGN: (Argument(1),),
    Function.MMAP: (Argument(1),),
    Function.CALLOC: (Argument(0), Argument(1)),
}
# Likewise for a function that another one jumps to: arguments that must be as they came.
_HANDED_ON: Mapping[Function, tuple[Value, ...]] = {
    **_SIZES,
    Function.CALLOC: (Argument(0), Argument(1)),
    Function.REALLOC: (Argument(0), Argument(1)),
    Function.RALLOCX: (Argument(0), Argument(1)),
    Function.FREE: (Argument(0),),
}
_NARROW = frozenset({Function.POSIX_MEMALIGN, Function.MUNMAP})  # they return an int


@dataclass(frozen=True)
class Point:
    """A probe inside a function. What it needs is found at the places it names."""

    vaddr: int
    action: Action
    function: Function
    instruction: str
    emulated: bool
    frame: tuple[int, int]  # register and what to add to it for the CFA
    callers_rbp: Place | None  # None: lost
    sizes: tuple[Place, ...] = ()  # of a begin or both: the size, or two factors of it
    by_arguments: bool = False  # of a begin: all arguments are in their registers
    result: Place | None = None
    condition: int | None = None  # of a jcc: only where this condition code holds
    may_be_unopened: bool = False  # of an end: also met where no call of ours is open
    towards: int | None = None  # where control goes on if `condition` holds


class FrameRules(Protocol):
    """What unwind information says of an address."""

    def lookup(self, vaddr: int) -> Row | None:
        """The row in force; None where there is none."""


class PointFinder:
    """Finds the points of the functions of one object."""

    def __init__(
        self,
        elf: ElfObject,
        hooked: Mapping[int, Function],
        names: Mapping[str, Function],
        rules: FrameRules | None,
    ) -> None:
        """`hooked`: all hooked functions of the object, by virtual address; `names`: what hooked
        functions are called, in whichever object; `rules`: its unwind information, to check the
        analysis with."""
        self._reader = CodeReader(elf, hooked, names)
        self._hooked = hooked
        self._others: dict[int | str, Function] = {}
        for one in (hooked, names):
            self._others.update(one.items())
        self._rules = rules
        self._returning: dict[tuple[object, ...], bool] = {}

    def find(self, vaddr: int, argument_count: int) -> tuple[Point, ...]:
        """The points of a hooked function; none where every way hands the call on to another one.

        Raises UnfollowableError with the reason where its ways, or a value on them, can't be
        followed.
        """
        function = self._hooked[vaddr]
        try:
            flow, values = self._analyse(vaddr, function)
        except ObjectFileError as error:
            raise UnfollowableError(error.message) from None
        chooser = _Chooser(flow, values, function, argument_count, self._others)
        points = chooser.choose()
        _prove(points, chooser)
        if self._rules is None:
            return points
        return tuple(_checked(values, point, self._rules) for point in points)

    def _analyse(self, vaddr: int, function: Function) -> tuple[Flow, Values]:
        flow = self._reader.flow(vaddr)
        while True:
            values = analyse(flow, self._reader.extent, narrow_result=function in _NARROW)
            final = [at for at in flow.calls if self._is_final(flow, values, at)]
            if not final:
                return flow, values
            flow = self._reader.cut_off(flow, final)

    def _is_final(self, flow: Flow, values: Values, at: int) -> bool:
        """Whether a call never comes back, for the numbers that it is given: __libc_message of
        glibc, told to abort."""
        target, state = flow.instructions[at].target, values.before.get(at)
        # Compilers pad behind such a call: any other one need not be looked at.
        behind = flow.instructions.get(flow.instructions[at].end)
        if target is None or state is None or behind is None or behind.mnemonic != "nop":
            return False
        held = {number: state.get(Register(number)) for number in ARGUMENTS}
        numbers = {n: value.value for n, value in held.items() if isinstance(value, Constant)}
        return bool(numbers) and not self._can_return(target, numbers)

    def _can_return(self, vaddr: int, numbers: Mapping[int, int]) -> bool:
        key = (vaddr, *sorted(numbers.items()))
        if key not in self._returning:
            try:
                self._returning[key] = can_return(self._reader.flow(vaddr), numbers)
            except (UnfollowableError, ObjectFileError):
                self._returning[key] = True
        return self._returning[key]


class Node(NamedTuple):
    """A place for a point: before an instruction, or a conditional jump in one of its directions,
    which the probe tells by the flags."""

    at: int
    towards: int | None = None


class _Ways:
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
        """Where the result is there."""
        if node.towards is None:
            return self.values.result[node.at]
        return result_towards(self.flow, self.values, node.at, node.towards)

    def exit(self, node: Node) -> Exit | None:
        """How the function is left there."""
        return self.flow.exits.get(node.at) if node.towards is None else None

    def allocates(self, node: Node) -> bool:
        """Whether a call there may lead to a hooked function, and comes back."""
        call = self.flow.calls.get(node.at) if node.towards is None else None
        return call is not None and call.may_allocate and self.values.result[node.at] is not None

    def ahead(self, start: Iterable[Node], stop: Callable[[Node], bool] | None = None) -> set[Node]:
        """What is reached from there, `start` included; nothing behind a node that stops."""
        return _reached(self.after, start, stop)

    def behind(
        self, start: Iterable[Node], stop: Callable[[Node], bool] | None = None
    ) -> set[Node]:
        """What leads there, `start` included; nothing that a node that stops is ahead of."""
        reached: set[Node] = set()
        waiting = [*start]
        while waiting:
            node = waiting.pop()
            if node not in reached:
                reached.add(node)
                waiting += [one for one in self.before[node] if stop is None or not stop(one)]
        return reached


class _Chooser:
    def __init__(
        self,
        flow: Flow,
        values: Values,
        function: Function,
        argument_count: int,
        others: Mapping[int | str, Function],
    ) -> None:
        self.ways = _Ways(flow, values)
        self._flow = flow
        self._values = values
        self._function = function
        self._argument_count = argument_count
        self._others = others
        self._allocating = [node for node in self.ways.after if self.ways.allocates(node)]
        self._before_allocating = self.ways.behind(self._allocating)

    def choose(self) -> tuple[Point, ...]:
        ends = self._ends()
        # Reached without a call that may allocate, on some way: else a begin was there before.
        alone = self.ways.ahead([self.ways.entry], self.ways.allocates)
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
        return tuple(points)

    def fails(self, node: Node) -> bool:
        """Whether the function is going to return nothing from there."""
        state = self._values.before[node.at]
        held = (
            place if isinstance(place, Constant) else state.get(place)
            for place in self.ways.result(node) or ()
        )
        return any(
            isinstance(value, Constant) and is_failure(self._function, value.value)
            for value in held
        )

    # --- ends -----------------------------------------------------------------------------------

    def _ends(self) -> set[Node]:
        resolved = {node for node in self.ways.after if self.ways.result(node)}
        sinks = [node for node in resolved if self.ways.exit(node)]
        if not sinks:
            return set()
        sources = [
            node
            for node in resolved
            if node == self.ways.entry
            or any(before not in resolved for before in self.ways.before[node])
        ]
        costs = {node: self._end_cost(node) for node in resolved}
        found = cheapest_cut(costs, self.ways.after, sources, sinks, once=True)
        if found is None:
            raise UnfollowableError("no instruction has its result on every way")
        return found

    def _end_cost(self, node: Node) -> int:
        if (
            node in self.ways.cyclic
            or node in self._before_allocating
            or self._values.frame(node.at) is None
            or (self._function is Function.POSIX_MEMALIGN and not self._is_epilogue(node))
        ):
            return UNCUTTABLE
        cost = self._cost(node)
        if self.fails(node) and cost < UNCUTTABLE:
            # Failures are few. What matters is that calls that don't fail come by nowhere for them.
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
        """Whether nothing is written from there on: *memptr is what it will be."""
        return not any(
            operand.is_memory and operand.is_written
            for behind in self.ways.ahead([node])
            for operand in self._flow.instructions[behind.at].operands
        )

    # --- begins ---------------------------------------------------------------------------------

    def _sizes_at(self, at: int) -> tuple[Place, ...]:
        """Where the size stands; () if that isn't known, or the code there is others', too."""
        wanted = _SIZES.get(self._function)
        if wanted is None or at in self._values.shared or self._values.frame(at) is None:
            return ()
        if len(wanted) == 2:
            product = self._values.place_of(at, Product(0, 1))
            if product is not None:
                return (product,)
        places = [self._values.place_of(at, value) for value in wanted]
        known = tuple(place for place in places if place is not None)
        return known if len(known) == len(wanted) else ()

    def _begins(self, ends: set[Node], both: set[Node]) -> tuple[Point, ...]:
        """Where calls are opened: on every way before anything may allocate, and before its end."""
        targets = {node for node in ends if not self.fails(node)} | set(self._allocating)
        targets |= {node for node in self.ways.after if self._must_be_open(node)}
        if not targets:
            return ()
        if both:
            fast = self.ways.behind(both, stop=self.ways.allocates)
            costs = {
                node: self._begin_cost(node) + (_ON_THE_FAST_WAY if node in fast else 0)
                for node in self.ways.after
            }
            found = cheapest_cut(costs, self.ways.after, [self.ways.entry], targets, once=False)
            if found is not None:
                return tuple(self._point(node, Action.BEGIN) for node in sorted(found))
        return (self._entry_point(),)

    def _must_be_open(self, node: Node) -> bool:
        """Whether a jump to another hooked function hands on less than came, or a jump leads to
        code that may be one."""
        way = self.ways.exit(node)
        return way is Exit.POINTER or (way is Exit.HOOKED and not self.hands_on(node))

    def hands_on(self, node: Node) -> bool:
        """Whether a hooked function that is jumped to sees the very size that was asked for."""
        function = self._others.get(self._flow.handed_to[node.at])
        own, state = self._function, self._values.before[node.at]
        if function is None:
            return False
        if own is Function.REALLOCARRAY and function is Function.REALLOC:
            wanted: tuple[Value, ...] = (Argument(0), Product(1, 2))
            places: tuple[Value, ...] = (Argument(0), Argument(1))
        elif own is function or (own in _SIZES and function in _SIZES):
            wanted, places = _HANDED_ON.get(own, ()), _HANDED_ON.get(function, ())
        else:
            return False
        return len(wanted) == len(places) > 0 and all(
            isinstance(there, Argument) and state.get(Register(ARGUMENTS[there.index])) == here
            for here, there in zip(wanted, places, strict=True)
        )

    def _begin_cost(self, node: Node) -> int:
        return self._cost(node) if self._sizes_at(node.at) else UNCUTTABLE

    def _entry_point(self) -> Point:
        entry = self._flow.entry
        line: list[bytes] = []
        at = entry
        while at in self._flow.instructions and len(line) < _MAX_PROLOGUE:
            line.append(self._flow.instructions[at].code)
            at = self._flow.instructions[at].end
        placement = place(b"".join(line), self._argument_count, whole=b"")
        if placement.refused:
            raise UnfollowableError(placement.reason)
        at = entry + placement.offset
        if Node(at) in self.ways.cyclic:
            raise UnfollowableError("it jumps back to where it begins")
        return Point(
            vaddr=at,
            action=Action.BEGIN,
            function=self._function,
            instruction=self._flow.instructions[at].text,
            emulated=placement.emulated,
            frame=(RSP, 8),
            callers_rbp=Register(RBP),
            by_arguments=True,
        )

    def _point(self, node: Node, action: Action) -> Point:
        instruction = self._flow.instructions[node.at]
        frame = self._values.frame(node.at)
        assert frame is not None  # else it costs too much
        condition = None
        if node.towards is not None:
            assert instruction.condition is not None
            # The lowest bit of a condition code turns it round.
            is_taken = node.towards == instruction.target
            condition = instruction.condition if is_taken else instruction.condition ^ 1
        return Point(
            vaddr=node.at,
            action=action,
            function=self._function,
            instruction=instruction.text,
            emulated=instruction.is_emulated,
            frame=frame,
            callers_rbp=self._values.place_of(node.at, CallersRbp()),
            sizes=self._sizes_at(node.at) if action is not Action.END else (),
            result=_handiest(self.ways.result(node)) if action is not Action.BEGIN else None,
            condition=condition,
            may_be_unopened=action is Action.END
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


def is_failure(function: Function, value: int) -> bool:
    """Whether a function that returns this number has allocated, or released, nothing."""
    if function in (Function.MMAP, Function.MREMAP):
        return value == -1
    if function in _NARROW:
        return value != 0
    return value == 0


# --- the proof ----------------------------------------------------------------------------------

_NOTHING, _OPEN, _DONE = 1, 2, 4  # how far a call has been followed


def _prove(points: Iterable[Point], chooser: _Chooser) -> None:
    """Follow every way with the points on it: each call is seen to begin, then to end, once, and
    nothing that may allocate is called outside. Raises UnfollowableError where that doesn't hold.
    """
    ways = chooser.ways
    at_node = {Node(point.vaddr, point.towards): point for point in points}
    before = {ways.entry: _NOTHING}
    waiting = [ways.entry]
    while waiting:
        node = waiting.pop()
        state = before[node]
        point = at_node.get(node)
        if point is not None:
            state = _passed(point, state)
        if ways.allocates(node) and state & ~_OPEN:
            raise UnfollowableError("a call that may allocate is made outside of what is followed")
        way = ways.exit(node)
        if way in (Exit.RETURN, Exit.FIRST_ARGUMENT):
            if state & ~_DONE:
                raise UnfollowableError("a way out has no end")
        elif way is Exit.HOOKED and (
            state & _DONE or (state & _NOTHING and not chooser.hands_on(node))
        ):
            raise UnfollowableError("it hands on what it has changed")
        elif way is Exit.POINTER and state & ~_OPEN:
            raise UnfollowableError("it goes on where only the running process knows")
        for following in ways.after[node]:
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
        case Action.END:
            if state & _DONE or (state & _NOTHING and not point.may_be_unopened):
                raise UnfollowableError("a call would be seen to end twice")
            return _DONE
        case Action.BOTH:
            if state & _DONE:
                raise UnfollowableError("a call would be seen to end twice")
            return _DONE


def _checked(values: Values, point: Point, rules: FrameRules) -> Point:
    """The unwind information, where there is some, must put the frame in the same place. It may
    also know where the caller's rbp is, if the analysis doesn't."""
    row = rules.lookup(point.vaddr)
    if row is None or row.rule not in (Rule.RULE_RSP, Rule.RULE_RBP):
        return point
    number = RSP if row.rule is Rule.RULE_RSP else RBP
    held = values.before[point.vaddr].get(Register(number))
    if held is not None and held != FrameAddress(-row.cfa_offset):
        raise UnfollowableError(f"its unwind information says another frame at {point.vaddr:#x}")
    if point.callers_rbp is not None:
        return point
    saved: Place | None = None
    if row.saved_rbp == SavedRbp.UNCHANGED:
        saved = Register(RBP)
    elif row.saved_rbp not in (SavedRbp.LOST, SavedRbp.AT_RBP):
        saved = Slot(-CFA_OFFSET_UNIT * row.saved_rbp)
    return replace(point, callers_rbp=saved)


# --- graphs -------------------------------------------------------------------------------------


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


def _on_cycles(ways: _Ways) -> set[Node]:
    """What may be passed more than once a call (strongly connected components, Kosaraju)."""
    finished: list[Node] = []
    seen: set[Node] = set()
    for root in ways.after:
        stack: list[tuple[Node, bool]] = [(root, False)]
        while stack:
            node, is_done = stack.pop()
            if is_done:
                finished.append(node)
            elif node not in seen:
                seen.add(node)
                stack.append((node, True))
                stack += [(following, False) for following in ways.after[node]]
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
                waiting += ways.before[node]
        if len(component) > 1 or root in ways.after[root]:
            cyclic.update(component)
    return cyclic
