"""Traced calls (--trace) as the kernel side sent them, given names only as they are shown.

Naming and printing a call takes far longer than recording it: a full buffer is seconds of work. So
whoever shows calls takes them piece by piece, and may stop in between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from leaktrace.abi import common as abi
from leaktrace.bpf.events import EventStream
from leaktrace.model import Event, EventKind, Stack

_KINDS = {
    abi.EventCode.ALLOCATE: EventKind.ALLOCATE,
    abi.EventCode.RELEASE: EventKind.RELEASE,
    abi.EventCode.FAIL: EventKind.FAIL,
}

Namer = Callable[[np.void], Event]


class TracedCalls:
    """Some calls in the order in which they happened, of type abi.EVENT; iterating names them.

    `left_out` counts those that were to be left out, of the whole run until now.
    """

    def __init__(
        self,
        raw: NDArray[np.void],
        name: Namer,
        left_out: int = 0,
        prepare: Callable[[Sequence[int]], None] = lambda _: None,
    ) -> None:
        """`prepare` is told before whose stacks are wanted."""
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
        """The same in parts of at most `size` calls."""
        for start in range(0, len(self._raw), size):
            piece = self._raw[start : start + size]
            yield TracedCalls(piece, self._name, prepare=self._prepare)


def take_messages(stream: EventStream | None, most: int | None) -> tuple[list[bytes], int]:
    """What the kernel side sent, at most so many calls where that is given, and how many calls
    were left out by now."""
    if stream is None:
        return [], 0
    return (stream.drain(), 0) if most is None else stream.drain_first(most, abi.EVENT.itemsize)


def decode(messages: list[bytes]) -> NDArray[np.void]:
    """Events (abi.EVENT) in the order in which they happened, whichever CPU's buffer they came
    through."""
    size = abi.EVENT.itemsize
    events = np.frombuffer(b"".join(m[:size] for m in messages), dtype=abi.EVENT)
    ordered: NDArray[np.void] = events[np.argsort(events["time_ns"], kind="stable")]
    return ordered


def decode_with_messages(messages: list[bytes]) -> Iterator[tuple[np.void, bytes]]:
    """The same, each event with its whole message."""
    size = abi.EVENT.itemsize
    events = np.frombuffer(b"".join(m[:size] for m in messages), dtype=abi.EVENT)
    order = np.argsort(events["time_ns"], kind="stable").tolist()
    return ((events[index], messages[index]) for index in order)


def name_call(event: np.void, function: str, stack: Stack | None) -> Event:
    """A call of type abi.EVENT, of this function and from there, as reporters take it."""
    size = int(event["size"])
    return Event(
        time_ns=int(event["time_ns"]),
        tid=int(event["tid"]),
        kind=_KINDS[abi.EventCode(int(event["kind"]))],
        function=function,
        size_bytes=None if size == abi.UNKNOWN_SIZE else size,
        address=int(event["address"]),
        frames=() if stack is None else stack.frames,
    )
