"""Taking events out of a ring buffer that a small BPF program fills.

The program is run by bpf(2) itself (BPF_PROG_TEST_RUN), as often as a test says: nothing depends on
when events arrive.
"""

from __future__ import annotations

import ctypes
import os
import select
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from leaktrace.bpf.events import EventStream, ring_buffer_bytes
from leaktrace.bpf.probe_calls import bpf
from leaktrace.bpf.syscalls import MAP_TYPE_RINGBUF

pytestmark = pytest.mark.usefixtures("require_bpf")

BPF_MAP_CREATE, BPF_PROG_LOAD, BPF_PROG_TEST_RUN = 0, 5, 10
PROG_TYPE_SOCKET_FILTER = 1
FUNC_RINGBUF_OUTPUT = 130
RECORD_BYTES = 16  # a header and a number
EVENT = struct.pack("<q", 7)


def instruction(code: int, dst: int = 0, src: int = 0, offset: int = 0, value: int = 0) -> bytes:
    return struct.pack("<BBhi", code, src << 4 | dst, offset, value)


def output_program(map_fd: int) -> bytes:
    """A program that puts one EVENT into the ring buffer."""
    return b"".join(
        (
            instruction(0x7A, dst=10, offset=-8, value=7),  # *(u64 *)(r10 - 8) = 7
            instruction(0x18, dst=1, src=1, value=map_fd),  # r1 = the map, in two parts
            instruction(0),
            instruction(0xBF, dst=2, src=10),  # r2 = r10 - 8
            instruction(0x07, dst=2, value=-8),
            instruction(0xB7, dst=3, value=8),  # r3 = 8
            instruction(0xB7, dst=4),  # r4 = 0
            instruction(0x85, value=FUNC_RINGBUF_OUTPUT),
            instruction(0xB7),  # return 0
            instruction(0x95),
        )
    )


def succeed(result: int) -> int:
    assert result >= 0, os.strerror(-result)
    return result


def attributes(layout: str, *values: int) -> ctypes.Array[ctypes.c_char]:
    whole = ctypes.create_string_buffer(128)
    struct.pack_into(layout, whole, 0, *values)
    return whole


@contextmanager
def ring_buffer(size_bytes: int) -> Iterator[tuple[int, Callable[[int], None]]]:
    """A ring buffer's descriptor, and a function that puts so many events into it."""
    with ExitStack() as stack:
        ring = succeed(bpf(BPF_MAP_CREATE, attributes("<IIII", MAP_TYPE_RINGBUF, 0, 0, size_bytes)))
        stack.callback(os.close, ring)
        code = output_program(ring)
        text, license_text = ctypes.create_string_buffer(code), ctypes.create_string_buffer(b"GPL")
        load = attributes(
            "<IIQQ",
            PROG_TYPE_SOCKET_FILTER,
            len(code) // 8,
            ctypes.addressof(text),
            ctypes.addressof(license_text),
        )
        program = succeed(bpf(BPF_PROG_LOAD, load))
        stack.callback(os.close, program)
        packet = ctypes.create_string_buffer(64)

        def produce(count: int) -> None:
            run = attributes(
                "<IIIIQQI", program, 0, len(packet), 0, ctypes.addressof(packet), 0, count
            )
            succeed(bpf(BPF_PROG_TEST_RUN, run))

        yield ring, produce


def is_readable(stream: EventStream) -> bool:
    return bool(select.select([stream], [], [], 0)[0])


def test_a_drain_takes_all_that_is_there() -> None:
    count = 3 * 65_536  # more than a drain takes of events that arrive meanwhile
    with ring_buffer(4 << 20) as (ring, produce):
        stream = EventStream(ring, is_ring=True, pages=0)
        assert stream.drain() == []
        assert not is_readable(stream)
        produce(count)
        assert is_readable(stream)
        assert stream.drain() == [EVENT] * count
        assert stream.drain() == []
        stream.close()


class FedStream(EventStream):
    """For each event that it takes, another one arrives, as from a faster process."""

    def __init__(self, map_fd: int, produce: Callable[[int], None], count: int) -> None:
        self.produce = produce
        self.count = count
        super().__init__(map_fd, is_ring=True, pages=0)

    def _on_ring(self, context: object, data: int, size: int) -> int:
        if self.count:
            self.count -= 1
            self.produce(1)
        return super()._on_ring(context, data, size)


@pytest.mark.parametrize("size_bytes", [4096, 2 << 20])
def test_a_drain_ends_although_events_keep_coming(size_bytes: int) -> None:
    at_least = max(65_536, size_bytes // RECORD_BYTES)
    with ring_buffer(size_bytes) as (ring, produce):
        assert ring_buffer_bytes(ring) == size_bytes
        produce(1)
        stream = FedStream(ring, produce, count=at_least + 10)
        assert stream.drain() == [EVENT] * at_least
        assert is_readable(stream)  # so that the rest isn't left until something else happens
        assert stream.drain() == [EVENT] * 11
        assert stream.drain() == []
        stream.close()


def test_the_first_events_and_the_number_of_the_others() -> None:
    with ring_buffer(4 << 20) as (ring, produce):
        stream = EventStream(ring, is_ring=True, pages=0)
        assert stream.drain_first(10, len(EVENT)) == ([], 0)
        produce(100_000)
        assert stream.drain_first(10, len(EVENT)) == ([EVENT] * 10, 99_990)
        assert stream.drain_first(0, len(EVENT)) == ([], 99_990)
        assert stream.drain_first(200_000, len(EVENT)) == ([EVENT] * 99_990, 0)
        # The buffer wraps around, its positions don't.
        produce(200_000)
        assert stream.drain_first(1, len(EVENT)) == ([EVENT], 199_999)
        assert stream.drain() == [EVENT] * 199_999
        stream.close()
