"""Decodes the events that BPF programs send (struct event, bpf/shared/types.h)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from leaktrace.abi import common as abi
from leaktrace.bpf.events import EventStream
from leaktrace.model import EventKind

# The calls among the events. The other kinds are about the process itself (abi.EventCode).
CALL_KINDS = {
    abi.EventCode.ALLOCATE: EventKind.ALLOCATE,
    abi.EventCode.RELEASE: EventKind.RELEASE,
    abi.EventCode.FAIL: EventKind.FAIL,
}


def take_messages(stream: EventStream | None, most: int | None) -> tuple[list[bytes], int]:
    """The events that have arrived, at most `most` of them unless it is None, and the number of
    events that this run has left out so far."""
    if stream is None:
        return [], 0
    return (stream.drain(), 0) if most is None else stream.drain_first(most, abi.EVENT.itemsize)


def decode(messages: Sequence[bytes]) -> NDArray[np.void]:
    """Events (abi.EVENT), sorted by time: each CPU may have its own buffer."""
    events = _in_order_of_arrival(messages)
    ordered: NDArray[np.void] = events[_by_time(events)]
    return ordered


def decode_with_messages(messages: Sequence[bytes]) -> Iterator[tuple[np.void, bytes]]:
    """The same as `decode`, each event with its whole message, which may be longer."""
    events = _in_order_of_arrival(messages)
    return ((events[index], messages[index]) for index in _by_time(events).tolist())


def _in_order_of_arrival(messages: Sequence[bytes]) -> NDArray[np.void]:
    size = abi.EVENT.itemsize
    return np.frombuffer(b"".join(m[:size] for m in messages), dtype=abi.EVENT)


def _by_time(events: NDArray[np.void]) -> NDArray[np.intp]:
    return np.argsort(events["time_ns"], kind="stable")
