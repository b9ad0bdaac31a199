"""The stacks of several processes, by stack id. Each is named by the process that it belongs to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence

from leaktrace.bpf.maps import Map
from leaktrace.process.family import Family
from leaktrace.process.member import Member
from leaktrace.site import Stack, StackEnd

_MOST_REMEMBERED = 1 << 20


class FamilyNames:
    """Finds the process of a stack, and asks it."""

    def __init__(self, stacks: Map, family: Family) -> None:
        """`stacks` is the kernel side's map of them."""
        self._map = stacks
        self._family = family
        self._slots: dict[int, int] = {}  # by stack id

    def stack_of(self, stack_id: int) -> Stack:
        """The stack of an id, with the names that are known so far."""
        member = self._member_of(stack_id)
        return (
            Stack((), StackEnd.LOST) if member is None else member.traced.names.stack_of(stack_id)
        )

    def locations_of(self, stack_id: int) -> Hashable | None:
        """A key that stacks of one site have in common, in whichever process; None where the stack
        is lost."""
        member = self._member_of(stack_id)
        return None if member is None else member.traced.names.locations_of(stack_id)

    def prepare(self, stack_ids: Sequence[int]) -> None:
        """Look the names of these stacks up, as `StackNames.prepare`."""
        by_slot: defaultdict[int, list[int]] = defaultdict(list)
        for stack_id in stack_ids:
            member = self._member_of(stack_id)
            if member is not None:
                by_slot[member.number].append(stack_id)
        first, *others = self._family
        for member in others:
            member.traced.names.begin(by_slot[member.number])
        # All processes look names up in the same background: one wait is enough.
        first.traced.names.prepare(by_slot[first.number])

    def expect_last_report(self) -> None:
        """No later report follows that could show names which are still missing."""
        for member in self._family:
            member.traced.names.expect_last_report()

    def notes(self) -> tuple[str, ...]:
        """The notes about names that are missing."""
        notes = (note for member in self._family for note in member.traced.names.notes())
        return tuple(dict.fromkeys(notes))

    def _member_of(self, stack_id: int) -> Member | None:
        if len(self._family) == 1:
            return self._family.first
        number = self._slots.get(stack_id)
        member = None if number is None else self._family.of_slot(number)
        if member is None:
            stored = self._map.lookup(stack_id) if stack_id else None
            if stored is None:
                return None
            if len(self._slots) >= _MOST_REMEMBERED:
                self._slots.clear()
            number = self._slots[stack_id] = int(stored["slot"])
            member = self._family.of_slot(number)
        return member
