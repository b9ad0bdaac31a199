"""Events of the kernel side, through a BPF ring buffer or, before Linux 5.8, perf buffers."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
from collections.abc import Callable

from leaktrace.bpf.support import has_ring_buffer
from leaktrace.bpf.syscalls import errno_of, libbpf
from leaktrace.errors import EnvironmentUnfitError, ProgramError, reason
from leaktrace.options import EventBuffer
from leaktrace.own.interrupts import held_back

PAGE_BYTES = os.sysconf("SC_PAGESIZE")

_RING_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_PERF_CALLBACK = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_uint32
)
_PERF_LOST_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_uint64)
_RING_HEADER_BYTES = 8  # before each record, which is padded to a multiple of as many
_MAP_INFO_BYTES = 88
_MIN_DRAINED_EVENTS = 65_536


def uses_ring_buffer(choice: EventBuffer) -> bool:
    """Whether events go through a BPF ring buffer. Raises EnvironmentUnfitError if that was
    requested and the kernel has none."""
    if choice is EventBuffer.PERF:
        return False
    has = has_ring_buffer()
    if choice is EventBuffer.RING and not has:
        raise EnvironmentUnfitError(
            "this kernel has no BPF ring buffer (Linux 5.8)", "leave --event-buffer out"
        )
    return has


def event_pages(size_bytes: int) -> int:
    """The size in pages, rounded up to a power of two, as ring buffers need it."""
    pages = max(size_bytes // PAGE_BYTES, 1)
    return 1 << (pages - 1).bit_length()


def ring_buffer_bytes(map_fd: int) -> int:
    """The size of a ring buffer's data (struct bpf_map_info, max_entries). Raises ProgramError."""
    info = ctypes.create_string_buffer(_MAP_INFO_BYTES)
    length = ctypes.c_uint32(len(info))
    code = errno_of(libbpf().bpf_obj_get_info_by_fd(map_fd, info, ctypes.byref(length)))
    if code:
        raise ProgramError(
            f"the kernel does not describe the event buffer: {reason(code)}",
            "please report this with the output of `leaktrace doctor`",
        )
    return int(struct.unpack_from("<I", info, 16)[0])


class EventStream:
    """Events of one BPF ring buffer or perf buffer, as raw bytes.

    `fileno()` is readable as long as there is something to `drain()`.
    """

    def __init__(self, map_fd: int, *, is_ring: bool, pages: int) -> None:
        self._is_ring = is_ring
        self._map_fd = map_fd
        self._events: list[bytes] = []
        self._drained_bytes = 0  # of the ring, by the current drain
        self._most: int | None = None  # events that the current drain may return
        self._skipped = 0  # events of perf buffers that were not returned
        library = libbpf()
        if is_ring:
            self._ring_bytes = ring_buffer_bytes(map_fd)
            self._callback: object = _RING_CALLBACK(self._on_ring)
            library.ring_buffer__new.restype = ctypes.c_void_p
            handle = library.ring_buffer__new(map_fd, self._callback, None, None)
        else:
            self._callback = _PERF_CALLBACK(self._on_perf)
            # Lost samples are counted by the program, which sees bpf_perf_event_output fail.
            self._lost_callback = _PERF_LOST_CALLBACK(lambda _context, _cpu, _count: None)
            library.perf_buffer__new.restype = ctypes.c_void_p
            handle = library.perf_buffer__new(
                map_fd,
                ctypes.c_size_t(pages),
                self._callback,
                self._lost_callback,
                None,
                None,
            )
        if not handle or handle > (1 << 64) - 4096:
            raise ProgramError(
                "can't open the event buffer", "lower --event-buffer-size, or raise RLIMIT_MEMLOCK"
            )
        self._handle: ctypes.c_void_p | None = ctypes.c_void_p(handle)

    def _on_ring(self, _context: object, data: int, size: int) -> int:
        if self._most is not None and len(self._events) + 1 >= self._most:
            if self._most:
                self._events.append(ctypes.string_at(data, size))
            return -errno.ECANCELED
        self._events.append(ctypes.string_at(data, size))
        self._drained_bytes += _RING_HEADER_BYTES + size + -size % _RING_HEADER_BYTES
        # libbpf continues as long as events arrive, which may be faster than we take them. A
        # negative result stops it after this event. Once a whole buffer is drained, everything
        # that was there at the start is.
        enough = self._drained_bytes >= self._ring_bytes
        return -errno.ECANCELED if enough and len(self._events) >= _MIN_DRAINED_EVENTS else 0

    def _on_perf(self, _context: object, _cpu: int, data: int, size: int) -> None:
        if self._most is not None and len(self._events) >= self._most:
            self._skipped += 1
        else:
            self._events.append(ctypes.string_at(data, size))

    def fileno(self) -> int:
        name = "ring_buffer__epoll_fd" if self._is_ring else "perf_buffer__epoll_fd"
        return int(getattr(libbpf(), name)(self._handle))

    def drain(self) -> list[bytes]:
        """Every event in the buffer, in its order (with perf buffers, per CPU).

        Events that arrive meanwhile may be left for the next call. Raises ProgramError.
        """
        return self._take(None)

    def drain_first(self, most: int, event_bytes: int) -> tuple[list[bytes], int]:
        """At most `most` events, for the end of a run, and how many remain.

        Every event of the stream has `event_bytes`: so those in a ring buffer are counted without
        reading them. Raises ProgramError.
        """
        # A callback can't stop libbpf before the first event.
        events = [] if self._is_ring and not most else self._take(most)
        return events, self._skipped + self._waiting(event_bytes)

    def _take(self, most: int | None) -> list[bytes]:
        self._most = most
        if self._handle is not None:
            name = "ring_buffer__consume" if self._is_ring else "perf_buffer__consume"
            self._drained_bytes = 0
            # An exception raised by a signal handler would be lost in a callback.
            with held_back():
                code = errno_of(getattr(libbpf(), name)(self._handle))
            if code not in (0, errno.ECANCELED):
                raise ProgramError(
                    f"can't read the event buffer: {reason(code)}",
                    "please report this with the output of `leaktrace doctor`",
                )
        events, self._events = self._events, []
        return events

    def _waiting(self, event_bytes: int) -> int:
        """Events in the ring buffer, computed from the consumer's and the producer's position, each
        in its own page (kernel/bpf/ringbuf.c, struct bpf_ringbuf)."""
        if not self._is_ring:
            return 0  # libbpf empties perf buffers
        positions = []
        for page, access in ((0, mmap.PROT_READ | mmap.PROT_WRITE), (1, mmap.PROT_READ)):
            with mmap.mmap(
                self._map_fd, mmap.PAGESIZE, mmap.MAP_SHARED, access, offset=page * mmap.PAGESIZE
            ) as memory:
                positions.append(int.from_bytes(memory[:8], "little"))
        consumer, producer = positions
        record_bytes = _RING_HEADER_BYTES + event_bytes + -event_bytes % _RING_HEADER_BYTES
        return (producer - consumer) // record_bytes

    def close(self) -> None:
        if self._handle is not None:
            name = "ring_buffer__free" if self._is_ring else "perf_buffer__free"
            free: Callable[[ctypes.c_void_p], object] = getattr(libbpf(), name)
            free(self._handle)
            self._handle = None
