"""Reads all of a range of another process's memory, without stopping it.

Pages that are not in the page table are not read from the process, for that would change it. Those
of private anonymous memory are zero; those of files are read from the file, as long as that is
possible. The registers of a device are never read: process_vm_readv(2) refuses that, and
/proc/PID/mem, which would do it, is only used for memory that the process itself can't read at the
moment (PROT_NONE).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from leaktrace.capabilities import Capability, refused
from leaktrace.errors import TargetError
from leaktrace.files import open_regular
from leaktrace.own.closing import Closes
from leaktrace.targets.dump_choice import Part
from leaktrace.targets.mappings import Mapping
from leaktrace.targets.memory import ProcessMemory
from leaktrace.targets.page_map import PAGE_BYTES, PRESENT, SWAPPED, PageMap
from leaktrace.targets.remote_read import read_into

PIECE_BYTES = 1 << 20
_DEVICES, _SHM, _SHARED = "/dev/", "/dev/shm/", "/dev/zero"


@dataclass(frozen=True)
class Piece:
    """`data` at an address, or `size` bytes that can't be read (None)."""

    start: int
    size: int
    data: bytes | None


class DumpReader(Closes):
    """The memory of one process. Use it as a context manager."""

    def __init__(self, pid: int) -> None:
        """Raises TargetError."""
        self._pid = pid
        self._stack = ExitStack()
        try:
            # It stays that of the present program, even if the process executes another one.
            self._memory = self._stack.enter_context(ProcessMemory(pid))
            self._pages = PageMap(pid)
        except PermissionError:
            raise _refused(pid) from None
        except OSError as error:
            raise _ended(pid) from error
        self._stack.callback(self._pages.close)
        self._files: dict[Mapping, int | None] = {}
        self._buffer = np.empty(PIECE_BYTES, dtype=np.uint8)

    def read(self, part: Part) -> Iterator[Piece]:
        """All of a part, in pieces of at most a MiB by ascending address. Raises TargetError when
        the process has ended or executed another program, or must not be read."""
        at = part.start
        while at < part.end:
            end = min(part.end, (at // PIECE_BYTES + 1) * PIECE_BYTES)
            if part.mapping is None:
                end = part.end
                yield Piece(at, end - at, None)
            else:
                yield from self._piece(at, end, part.mapping)
            self._require_same_program()
            at = end

    def _piece(self, start: int, end: int, mapping: Mapping) -> Iterator[Piece]:
        known: list[bytes] = []
        at = start
        for run_start, run_end, is_absent in self._runs(start, end):
            for part_start, data, size in self._run(run_start, run_end, mapping, is_absent):
                if data is not None:
                    known.append(data)
                    continue
                if known:
                    yield Piece(at, part_start - at, b"".join(known))
                    known = []
                yield Piece(part_start, size, None)
                at = part_start + size
        if known:
            yield Piece(at, end - at, b"".join(known))

    def _run(
        self, start: int, end: int, mapping: Mapping, is_absent: bool
    ) -> Iterator[tuple[int, bytes | None, int]]:
        """Addresses, bytes (None: they can't be read) and sizes. `is_absent`: none of its pages is
        in the page table."""
        if is_absent and _is_private_memory(mapping):
            yield start, bytes(end - start), end - start
            return
        data = self._of_file(start, end, mapping) if is_absent else b""
        data = data if len(data) == end - start else self._bytes(start, end - start)
        if len(data) == end - start:
            yield start, data, len(data)
            return
        for at in range(start // PAGE_BYTES * PAGE_BYTES, end, PAGE_BYTES):
            first, size = max(at, start), min(at + PAGE_BYTES, end) - max(at, start)
            data = self._bytes(first, size)
            if len(data) < size and "r" not in mapping.permissions and not _is_device(mapping):
                with suppress(OSError, OverflowError):
                    data = self._memory.read(first, size)
            yield first, data if len(data) == size else None, size

    def _runs(self, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
        """The range in parts, and whether their pages are absent: neither present nor swapped
        out."""
        first, last = start // PAGE_BYTES * PAGE_BYTES, -(-end // PAGE_BYTES) * PAGE_BYTES
        try:
            pages = self._pages.read(first, last)
        except (OSError, OverflowError):
            pages = np.zeros(0, dtype=np.uint8)
        if len(pages) * PAGE_BYTES < last - first:  # not known: [vsyscall]
            yield start, end, False
            return
        absent = (pages & (PRESENT | SWAPPED)) == 0
        bounds = [0, *(np.nonzero(np.diff(absent))[0] + 1).tolist(), len(pages)]
        for one, other in pairwise(bounds):
            at, stop = first + one * PAGE_BYTES, first + other * PAGE_BYTES
            yield max(at, start), min(stop, end), bool(absent[one])

    def _of_file(self, start: int, end: int, mapping: Mapping) -> bytes:
        """What the mapped file has there, and so pages that no one has touched; b"" if it can't be
        read. A fault would make the kernel allocate such pages of shared memory."""
        if not mapping.is_file or _is_device(mapping):
            return b""
        if mapping not in self._files:
            self._files[mapping] = self._open(mapping)
        descriptor = self._files[mapping]
        if descriptor is None or not mapping.is_of(descriptor):
            return b""
        try:
            return os.pread(descriptor, end - start, start - mapping.start + mapping.offset)
        except (OSError, OverflowError):
            return b""

    def _open(self, mapping: Mapping) -> int | None:
        """Its file; None without the privilege, or if it is not a regular one."""
        try:
            descriptor = open_regular(
                f"/proc/{self._pid}/map_files/{mapping.start:x}-{mapping.end:x}"
            )
        except (OSError, ValueError):
            return None
        self._stack.callback(os.close, descriptor)
        return descriptor

    def _bytes(self, address: int, size: int) -> bytes:
        """Up to what can't be read."""
        wanted = np.array([(address, address + size)], dtype=np.uint64)
        try:
            return self._buffer[: read_into(self._buffer.ctypes.data, self._pid, wanted)].tobytes()
        except ProcessLookupError:
            raise _ended(self._pid) from None
        except PermissionError:
            raise _refused(self._pid) from None

    def _require_same_program(self) -> None:
        if not self._pages.has_memory():
            raise _ended(self._pid)

    def close(self) -> None:
        self._stack.close()


def _is_private_memory(mapping: Mapping) -> bool:
    """Whether pages that were never touched are zero."""
    # "[vdso]" and others are the kernel's.
    is_kernels = mapping.path.startswith("[v")
    return not mapping.is_file and mapping.permissions[3:] == "p" and not is_kernels


def _is_device(mapping: Mapping) -> bool:
    """Whether it is of a device, which may do anything when it is read. (Shared anonymous memory is
    called /dev/zero.)"""
    if not mapping.path.startswith(_DEVICES) or mapping.path.startswith(_SHM):
        return False
    return not (mapping.path == _SHARED and mapping.deleted)


def _refused(pid: int) -> TargetError:
    return refused(f"the memory of process {pid} can't be read", Capability.SYS_PTRACE)


def _ended(pid: int) -> TargetError:
    return TargetError(
        f"process {pid} has ended, or executed another program, while its memory was read",
        "what was written is not all of it",
    )
