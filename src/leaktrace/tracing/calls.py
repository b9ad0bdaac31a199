"""Traced calls (--trace). They are recorded without names and named only when they are shown.

Naming and printing a call takes far longer than recording it: a full buffer is seconds of work. So
calls are shown in pieces, and the run can stop between two pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from leaktrace.abi import common as abi
from leaktrace.analysis.trim import readable
from leaktrace.model import Event
from leaktrace.options import ReportOptions
from leaktrace.site import Stack
from leaktrace.tracing.events import CALL_KINDS


class CallNamer:
    """Turns a call of type abi.EVENT into the `Event` that reporters print."""

    def __init__(
        self,
        functions: Mapping[int, str],
        stack_of: Callable[[int], Stack],
        asked: ReportOptions,
        unsized: Container[int] = (),
    ) -> None:
        """`functions`: names by function code; `stack_of` returns the stack of a stack id;
        `unsized`: functions whose size means nothing."""
        self._functions = functions
        self._unsized = unsized
        self._stack_of = stack_of
        self._asked = asked

    def __call__(self, event: np.void) -> Event:
        size, stack_id = int(event["size"]), int(event["stack_id"])
        function = int(event["function"])
        stack = readable(self._stack_of(stack_id), self._asked) if stack_id else None
        return Event(
            time_ns=int(event["time_ns"]),
            tid=int(event["tid"]),
            kind=CALL_KINDS[abi.EventCode(int(event["kind"]))],
            function=self._functions.get(function, "?"),
            size_bytes=(None if size == abi.UNKNOWN_SIZE or function in self._unsized else size),
            address=int(event["address"]),
            frames=() if stack is None else stack.frames,
        )


class TracedCalls:
    """Calls of type abi.EVENT, sorted by time. Iterating over them looks their names up.

    `left_out` is the number of calls that this run has left out so far.
    """

    def __init__(
        self,
        raw: NDArray[np.void],
        name: Callable[[np.void], Event],
        left_out: int = 0,
        prepare: Callable[[Sequence[int]], None] = lambda _: None,
    ) -> None:
        """`prepare` is called with the stack ids that are about to be named."""
        self._raw = raw
        self._name = name
        self._prepare = prepare
        self.left_out = left_out

    def __len__(self) -> int:
        return len(self._raw)

    def __iter__(self) -> Iterator[Event]:
        stack_ids = np.unique(self._raw["stack_id"]).tolist()
        self._prepare([stack_id for stack_id in stack_ids if stack_id])
        return map(self._name, self._raw)

    def pieces(self, size: int) -> Iterator[TracedCalls]:
        """The same calls in pieces of at most `size`."""
        for start in range(0, len(self._raw), size):
            piece = self._raw[start : start + size]
            yield TracedCalls(piece, self._name, prepare=self._prepare)
