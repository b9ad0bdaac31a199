"""Stacks with names. A stack is kept once all its names are known, and read again until then."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from leaktrace.abi import process as abi
from leaktrace.analysis.builder import STACK_ENDS
from leaktrace.bpf.maps import Map
from leaktrace.process.generated_code import GeneratedCode
from leaktrace.site import Stack, StackEnd
from leaktrace.symbols.lookups import Lookups
from leaktrace.symbols.symbolizer import ProcessSymbolizer
from leaktrace.symbols.views import CodeView

_MOST_NAMED = 5  # in a note


class StackNames:
    """The stacks of one process, by stack id."""

    def __init__(self, stacks: Map, symbolizer: ProcessSymbolizer, lookups: Lookups) -> None:
        """`stacks` is the kernel side's map of them."""
        self._map = stacks
        self._symbolizer = symbolizer
        self._lookups = lookups
        self._known: dict[int, Stack] = {}
        self._arrived = 0  # finished look-ups when the known stacks got their names
        self._is_last_report = False
        self._generated = GeneratedCode()

    def forget(self) -> None:
        """The target executes another program."""
        self._known.clear()
        self._symbolizer.forget()

    def expect_last_report(self) -> None:
        """No later report follows that could show names which are still missing."""
        self._is_last_report = True

    def prepare(self, stack_ids: Sequence[int]) -> None:
        """Look the names of these stacks up, all at the same time, and wait for them as long as a
        report may wait (symbols/lookups.py)."""
        self.begin(stack_ids)
        self._lookups.wait(is_last=self._is_last_report)

    def begin(self, stack_ids: Sequence[int]) -> None:
        """Begin to look the names of the stacks of a report up."""
        self._generated.begin_report()
        for stack_id in stack_ids:
            self.stack_of(stack_id)

    def stack_of(self, stack_id: int) -> Stack:
        """The stack of an id, with the names that are known so far."""
        if self._arrived != self._lookups.arrived:
            self._arrived = self._lookups.arrived
            self._known.clear()
        known = self._known.get(stack_id)
        if known is None:
            known = self._read(stack_id)
            if _is_settled(known):
                self._known[stack_id] = known
        self._generated.see(known)
        return known

    def _read(self, stack_id: int) -> Stack:
        stored = self._map.lookup(stack_id) if stack_id else None
        if stored is None:
            return Stack((), StackEnd.LOST)
        frames = self._symbolizer.symbolize_stack(_addresses(stored), self._view_of(stored))
        return Stack(frames, STACK_ENDS[abi.StackEndCode(int(stored["end"]))])

    def addresses_of(self, stack_id: int) -> list[int] | None:
        """The return addresses of a stack, leaf first; None where it is lost."""
        stored = self._map.lookup(stack_id) if stack_id else None
        return None if stored is None else _addresses(stored)

    def is_complete(self, stack_id: int) -> bool:
        """Whether a stack was walked to its outermost frame."""
        stored = self._map.lookup(stack_id) if stack_id else None
        return stored is not None and int(stored["end"]) == abi.StackEndCode.COMPLETE

    def locations_of(self, stack_id: int) -> tuple[object, ...] | None:
        """A key that stacks of one site have in common, in whichever process; None where the stack
        is lost. Code that is in no file is this process's own."""
        stored = self._map.lookup(stack_id) if stack_id else None
        if stored is None:
            return None
        view, pid = self._view_of(stored), self._symbolizer.pid
        return tuple(
            view.locate(address) if view.is_in_object(address) else (pid, view.locate(address))
            for address in _addresses(stored)
        )

    def _view_of(self, stack: np.void) -> CodeView:
        """What the addresses of a stack (abi.STACK) mean."""
        if stack["in_doubt"]:
            return self._symbolizer.views.unknown
        number, since, epoch = (int(stack[name]) for name in ("view", "since", "epoch"))
        return self._symbolizer.views.at(number, since, epoch)

    def notes(self) -> tuple[str, ...]:
        """The notes about names that are missing."""
        generated = self._generated.notes(self._symbolizer.pid, self._symbolizer.mappings)
        return (*self._awaited(), *generated)

    def _awaited(self) -> Iterator[str]:
        awaited = self._lookups.awaited()
        if not awaited:
            return
        more = len(awaited) - _MOST_NAMED
        listed = ", ".join(awaited[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
        if self._is_last_report:
            yield f"some names and lines are missing: there was no time to read {listed}"
        else:
            yield f"some names and lines are still missing; later reports may have them: {listed}"


def _addresses(stored: np.void) -> list[int]:
    addresses: list[int] = stored["pc"][: int(stored["frame_count"])].tolist()
    return addresses


def _is_settled(stack: Stack) -> bool:
    """Whether no later look can add anything. A lost stack may still be stored, and code that was
    generated at run time may still get a name."""
    return stack.end is not StackEnd.LOST and not any(
        frame.unknown is not None and frame.module_offset is None for frame in stack.frames
    )
