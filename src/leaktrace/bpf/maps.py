"""BPF maps, read into numpy arrays in batches, without a Python object per entry."""

from __future__ import annotations

import ctypes
import errno
import mmap
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leaktrace.bpf.support import declined
from leaktrace.bpf.syscalls import errno_of, libbpf
from leaktrace.errors import ProgramError, reason, system_error

_ANY, _NO_EXIST = 0, 1  # flags of BPF_MAP_UPDATE_ELEM, include/uapi/linux/bpf.h
_INITIAL_ROOM = 1 << 20  # records


@dataclass(frozen=True)
class Map:
    """A BPF map by file descriptor. Keys and values are numpy records of the given types."""

    name: str
    fd: int
    key: np.dtype[Any]
    value: np.dtype[Any]
    capacity: int

    def lookup(self, key: int | bytes) -> np.void | None:
        """The value of one key, or None."""
        keys = np.array([key], dtype=self.key)
        values = np.zeros(1, dtype=self.value)
        result = libbpf().bpf_map_lookup_elem(self.fd, _pointer(keys), _pointer(values))
        return None if errno_of(result) else values[0]

    def update(self, key: int | bytes, value: NDArray[Any]) -> None:
        """Write one value. Raises OSError with the kernel's errno."""
        code = self._write(key, value, _ANY)
        if code:
            raise system_error(code, self.name)

    def insert(self, key: int | bytes, value: NDArray[Any]) -> bool:
        """Write one value if the key is new. Returns whether it is, and there was room for it."""
        return self._write(key, value, _NO_EXIST) == 0

    def _write(self, key: int | bytes, value: NDArray[Any], flags: int) -> int:
        """Returns 0 or the kernel's errno."""
        keys = np.array([key], dtype=self.key)
        update = libbpf().bpf_map_update_elem
        update.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint64)
        return errno_of(update(self.fd, _pointer(keys), _pointer(value), flags))

    def remove(self, key: int | bytes) -> bool:
        """Remove one key. Returns whether it was there."""
        keys = np.array([key], dtype=self.key)
        return errno_of(libbpf().bpf_map_delete_elem(self.fd, _pointer(keys))) == 0

    def delete(self, key: int | bytes) -> None:
        """Delete one key, if it is there."""
        keys = np.array([key], dtype=self.key)
        libbpf().bpf_map_delete_elem(self.fd, _pointer(keys))

    def delete_all(self, keys: NDArray[Any]) -> None:
        """Delete these keys, as far as they are there. (Deleting in a batch would stop at the first
        key that is gone already.)"""
        delete = libbpf().bpf_map_delete_elem
        each = np.ascontiguousarray(keys, dtype=self.key)
        for index in range(len(each)):
            delete(self.fd, _pointer(each[index:]))

    def write_mapped(self, start: int, values: NDArray[np.uint64]) -> None:
        """Write into an array map made with BPF_F_MMAPABLE, from index `start` on. Raises OSError.

        The values of an array are at multiples of 8 bytes, even if they are smaller.
        """
        if not len(values):
            return
        # Only the pages that are written: the kernel enters each page of a mapping at once.
        first = start * 8 // mmap.PAGESIZE * mmap.PAGESIZE
        at = start * 8 - first
        size = -(-(at + values.nbytes) // mmap.PAGESIZE) * mmap.PAGESIZE
        access = mmap.PROT_READ | mmap.PROT_WRITE
        with mmap.mmap(self.fd, size, mmap.MAP_SHARED, access, offset=first) as memory:
            memory[at : at + values.nbytes] = values.tobytes()

    def read_all(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """All keys and values, in no order.

        Each hash bucket is read as a whole, so a record that stays in the map is seen exactly once.
        One that is added or deleted meanwhile may or may not be seen. Kernels before 5.6 have no
        batch operations: there the map is read key by key.

        Raises ProgramError when it can't be read.
        """
        batched = None if declined("map_batches") else self._read_in_batches()
        return self._read_one_by_one() if batched is None else batched

    def _read_in_batches(self) -> tuple[NDArray[Any], NDArray[Any]] | None:
        lookup = libbpf().bpf_map_lookup_batch
        lookup.argtypes = (
            ctypes.c_int,
            ctypes.c_void_p,
            ctypes.c_void_p,
            ctypes.c_void_p,
            ctypes.c_void_p,
            ctypes.POINTER(ctypes.c_uint32),
            ctypes.c_void_p,
        )
        size = min(max(self.capacity, 1), 65_536)
        # Read in place: unused memory costs nothing, but copying a million records does.
        room = min(self.capacity, _INITIAL_ROOM) + size
        keys, values = np.empty(room, dtype=self.key), np.empty(room, dtype=self.value)
        filled = 0
        position = np.zeros(1, dtype=np.uint64)
        first = True
        while True:
            if filled + size > len(keys):
                keys, values = _enlarged(keys, filled + size), _enlarged(values, filled + size)
            count = ctypes.c_uint32(size)
            code = errno_of(
                lookup(
                    self.fd,
                    None if first else _pointer(position),
                    _pointer(position),
                    _pointer(keys[filled:]),
                    _pointer(values[filled:]),
                    ctypes.byref(count),
                    None,
                )
            )
            if code == errno.ENOSPC:  # a bucket with more entries than the buffer holds
                size *= 2
                continue
            if code not in (0, errno.ENOENT):
                if first and code in (errno.EINVAL, errno.ENOTSUP, 524):
                    return None
                raise ProgramError(
                    f"can't read the map {self.name}: {reason(code)}",
                    "please report this with the output of `leaktrace doctor`",
                )
            filled += count.value
            first = False
            if code == errno.ENOENT:
                return keys[:filled], values[:filled]

    def _read_one_by_one(self) -> tuple[NDArray[Any], NDArray[Any]]:
        library = libbpf()
        keys: list[NDArray[Any]] = []
        values: list[NDArray[Any]] = []
        key = np.zeros(1, dtype=self.key)
        previous: ctypes.c_void_p | None = None
        # A key deleted meanwhile restarts the iteration, so it is bounded.
        for _ in range(2 * self.capacity):
            if errno_of(library.bpf_map_get_next_key(self.fd, previous, _pointer(key))):
                break
            previous = _pointer(key)
            value = np.zeros(1, dtype=self.value)
            if not errno_of(library.bpf_map_lookup_elem(self.fd, _pointer(key), _pointer(value))):
                keys.append(key.copy())
                values.append(value)
        if not keys:
            return np.empty(0, dtype=self.key), np.empty(0, dtype=self.value)
        return np.concatenate(keys), np.concatenate(values)


def _enlarged(array: NDArray[Any], least: int) -> NDArray[Any]:
    """A copy with room for at least `least` elements, and at least twice the previous room."""
    larger = np.empty(max(least, 2 * len(array)), dtype=array.dtype)
    larger[: len(array)] = array
    return larger


def _pointer(array: NDArray[Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)
