"""The memory of a process in a core file, as the kernel, gcore and coredumpctl write it.

Sources: core(5), elf(5); NT_FILE, NT_AUXV, NT_PRSTATUS, NT_PRPSINFO and NT_X86_XSTATE as written by
fs/binfmt_elf.c. Every offset and count is checked against the size of the file before it is used.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from leaktrace.elf.object import ElfObject
from leaktrace.errors import ObjectFileError
from leaktrace.files import open_regular
from leaktrace.heap.memory import HeapMemory
from leaktrace.printable import printable
from leaktrace.roots.module_data import ObjectFiles
from leaktrace.targets.dead_stacks import WaitingThread
from leaktrace.targets.mappings import Mapping
from leaktrace.targets.memory_image import MemoryImage, Segment
from leaktrace.targets.root import TargetRoot
from leaktrace.targets.thread_registers import OneThread, Registers

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")  # Elf64_Ehdr
_ET_CORE, _EM_X86_64 = 4, 62
_PROGRAM_HEADER = np.dtype(
    [
        ("type", "<u4"),
        ("flags", "<u4"),
        ("offset", "<u8"),
        ("address", "<u8"),
        ("physical", "<u8"),
        ("file_size", "<u8"),
        ("memory_size", "<u8"),
        ("align", "<u8"),
    ]
)
_SECTION_INFO_AT = 44  # sh_info of Elf64_Shdr
_PT_LOAD, _PT_NOTE = 1, 4
_PN_XNUM = 0xFFFF  # the number of segments is in the first section header
_MOST_SEGMENTS = 1 << 20
_MOST_NOTE_BYTES = 256 << 20
_NOTE = struct.Struct("<III")  # Elf64_Nhdr
_NT_PRSTATUS, _NT_PRPSINFO, _NT_AUXV = 1, 3, 6
_NT_FILE, _NT_X86_XSTATE = 0x46494C45, 0x202
_AT_ENTRY = 9  # getauxval(3)
_CORE_OWNERS = (b"CORE", b"LINUX")
_STATUS_PID_AT, _STATUS_REGISTERS_AT, _REGISTERS = 32, 112, 27  # struct elf_prstatus, x86-64
_RBP, _RIP, _RSP, _FS_BASE = 4, 16, 19, 21  # struct user_regs_struct
_INFO_PID_AT, _INFO_NAME_AT, _NAME_BYTES = 24, 40, 16  # struct elf_prpsinfo
_HIGHEST = 1 << 47
_FIRST_PAGE_BYTES = 4096
_BUILD_ID = b"\x03\0\0\0GNU\0"  # type and name of NT_GNU_BUILD_ID


def _as_stack(one: Mapping, stack_pointer: int) -> Mapping:
    is_stack = one.start <= stack_pointer < one.end and not one.is_file
    return replace(one, path="[stack]") if is_stack else one


class _Load(NamedTuple):
    """A segment of memory. Only the first `file_bytes` are in the file."""

    start: int
    end: int
    offset: int
    file_bytes: int
    permissions: str  # "rw-p"


@dataclass
class _Notes:
    files: list[tuple[int, int, int, str]] = field(default_factory=list)  # start, end, offset, path
    threads: list[tuple[int, NDArray[np.uint64]]] = field(default_factory=list)  # tid, registers
    # Of vectors, by the number of the thread they follow; -1: before the first.
    vectors: list[tuple[int, NDArray[np.uint64]]] = field(default_factory=list)
    entry: int = 0  # where the program begins to run; 0: not known
    pid: int = 0
    name: str = ""


class CoreFile:
    """A core file that is open. Its memory is mapped, and read when it is used. Close it at the
    end."""

    def __init__(self, path: Path) -> None:
        """Raises ObjectFileError when it can't be read, or is no core file of this architecture."""
        self._shown = printable(str(path))
        self._same: dict[str, bool] = {}  # files by path: whether it is still the mapped one
        try:
            descriptor = open_regular(path)
        except OSError as error:
            raise ObjectFileError(
                f"{self._shown} can't be read: {error.strerror}", "check the path"
            ) from error
        try:
            self._size = os.fstat(descriptor).st_size
            if self._size < _HEADER.size:
                raise self._bad("it is too short")
            self._data = mmap.mmap(descriptor, self._size, prot=mmap.PROT_READ)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        try:
            headers = self._read_headers()
            self._loads = tuple(self._read_loads(headers))
            self._notes = self._read_notes(headers)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        os.close(self._descriptor)
        # An image that is still in use keeps it open.
        with suppress(BufferError):
            self._data.close()

    def memory(self) -> HeapMemory:
        """The memory of the process when the file was written."""
        segments, cut_bytes = [], 0
        for one in self._loads:
            size = min(one.file_bytes, max(self._size - one.offset, 0)) // 8 * 8
            cut_bytes += one.file_bytes - size
            for offset, end in self._written(one.offset, one.offset + size):
                words = np.frombuffer(self._data, np.uint64, (end - offset) // 8, offset)
                segments.append(Segment(one.start + offset - one.offset, words))
        notes = []
        if not self._notes.threads:
            notes.append("the core file has no registers: what only they point to counts as lost")
        first = self._notes.threads[0][0] if self._notes.threads else 0
        return HeapMemory(
            pid=self._notes.pid or first,
            command=self._notes.name,
            image=MemoryImage(segments),
            mappings=self._mappings(),
            threads=tuple(
                WaitingThread(
                    int(words[_RSP]),
                    int(words[_FS_BASE]),
                    is_first=tid == self._notes.pid,
                    own_tid=max(tid, 0),  # of a damaged file
                )
                for tid, words in self._notes.threads
            ),
            registers=self._registers(),
            read_constant=self._read_constant,
            objects=self._objects,
            unread_bytes=cut_bytes,
            notes=tuple(notes),
        )

    def _objects(self) -> ObjectFiles:
        """The files that were mapped, if they are still the same."""
        entry = self._notes.entry
        paths = [path for start, end, _, path in self._notes.files if start <= entry < end]
        return ObjectFiles(
            elf=self._elf,
            program_path=paths[0] if paths else None,
            thread_name=lambda _: None,
            roots=(TargetRoot("/"),),
        )

    def _elf(self, mapping: Mapping) -> ElfObject:
        if not self._is_same(mapping.path):
            shown = printable(mapping.path)
            raise ObjectFileError(f"{shown} is not there any more, or another file")
        return ElfObject.open(mapping.path)

    def _registers(self) -> Registers:
        words = [[one] for _, one in self._notes.threads]
        unknown = [np.empty(0, dtype=np.uint64)]
        for number, vector in self._notes.vectors:
            (words[number] if number >= 0 else unknown).append(vector)
        threads = [
            OneThread(
                tid % (1 << 32),
                int(one[_RIP]),
                int(one[_RSP]),
                int(one[_RBP]),
                int(one[_FS_BASE]),
                row,
            )
            for (tid, one), row in zip(self._notes.threads, map(np.concatenate, words), strict=True)
        ]
        if len(unknown) > 1:
            threads.append(OneThread(0, 0, 0, 0, 0, np.concatenate(unknown)))
        return Registers.of_stopped(threads)

    def _written(self, offset: int, end: int) -> Iterator[tuple[int, int]]:
        """The parts [start, end) of a range of the file that are no holes. What was never touched
        is a hole in a file of the kernel's, and may be terabytes."""
        while offset < end:
            try:
                data = os.lseek(self._descriptor, offset, os.SEEK_DATA)
                hole = os.lseek(self._descriptor, data, os.SEEK_HOLE)
            except OSError as error:
                if error.errno != errno.ENXIO:  # a file system that doesn't know
                    yield offset, end
                return
            # Words of the process are at multiples of 8 from the start of its segment.
            start = offset + (max(data, offset) - offset) // 8 * 8
            stop = offset + -(-(min(hole, end) - offset) // 8) * 8
            if start < end:
                yield start, min(stop, end)
            offset = max(stop, offset + 8)

    def _bad(self, why: str) -> ObjectFileError:
        return ObjectFileError(
            f"{self._shown} is no core file that can be used: {why}",
            "gcore PID writes one, and so does `coredumpctl dump`",
        )

    def _read_headers(self) -> NDArray[np.void]:
        fields = _HEADER.unpack_from(self._data)
        identity, kind, machine = fields[:3]
        if identity[:4] != b"\x7fELF" or kind != _ET_CORE:
            raise self._bad("it has another format")
        if identity[4:6] != b"\x02\x01" or machine != _EM_X86_64:
            raise self._bad("it is of another architecture than x86-64")
        at, sections_at, size, count = fields[5], fields[6], fields[9], fields[10]
        if count == _PN_XNUM and sections_at + _SECTION_INFO_AT + 4 <= self._size:
            (count,) = struct.unpack_from("<I", self._data, sections_at + _SECTION_INFO_AT)
        if size != _PROGRAM_HEADER.itemsize or not 0 < count <= _MOST_SEGMENTS:
            raise self._bad("its program headers are damaged")
        if at + count * size > self._size:
            raise self._bad("it ends within its program headers")
        return np.frombuffer(self._data, dtype=_PROGRAM_HEADER, count=count, offset=at).copy()

    def _read_loads(self, headers: NDArray[np.void]) -> Iterator[_Load]:
        """By ascending address; without those that overlap the one before."""
        loads = headers[headers["type"] == _PT_LOAD]
        before = 0
        for one in loads[np.argsort(loads["address"], kind="stable")].tolist():
            _, flags, offset, start, _, file_bytes, memory_bytes, _ = one
            end = start + memory_bytes
            if start < before or end > _HIGHEST or start % 8 or file_bytes > memory_bytes:
                continue
            letters = (("r", 4), ("w", 2), ("x", 1))
            permissions = "".join(letter if flags & bit else "-" for letter, bit in letters)
            yield _Load(start, end, offset, file_bytes, f"{permissions}p")
            before = end

    def _mappings(self) -> tuple[Mapping, ...]:
        """As /proc/PID/maps would have said, as far as the file knows. Files whose memory was left
        out may be code, for all that is known."""
        files = {start: (offset, path) for start, _, offset, path in self._notes.files}
        found = []
        for one in self._loads:
            offset, path = files.pop(one.start, (0, ""))
            inode = 1 if path else 0
            found.append(Mapping(one.start, one.end, one.permissions, offset, "00:00", inode, path))
        for tid, words in self._notes.threads:
            if tid == self._notes.pid:  # of the first thread, the kernel would have named it
                found = [_as_stack(one, int(words[_RSP])) for one in found]
        starts = [one.start for one in self._loads]
        for start, end, offset, path in self._notes.files:
            before = bisect_right(starts, start) - 1
            is_free = before < 0 or self._loads[before].end <= start
            if start in files and is_free and start < end:
                found.append(Mapping(start, end, "r-xp", offset, "00:00", 1, path))
        return tuple(sorted(found, key=lambda one: one.start))

    def _read_notes(self, headers: NDArray[np.void]) -> _Notes:
        notes = _Notes()
        for one in headers[headers["type"] == _PT_NOTE]:
            offset, size = int(one["offset"]), int(one["file_size"])
            if size > _MOST_NOTE_BYTES:
                raise self._bad("its notes are damaged")
            # gcore writes them last: of a file that was cut off they are missing.
            for kind, data in _notes(self._data[offset : offset + size]):
                _take(notes, kind, data)
        return notes

    def _read_constant(self, address: int, size: int) -> bytes:
        """Of the file that was mapped there, if it is still the same one."""
        for start, end, offset, path in self._notes.files:
            if start <= address < end and self._is_same(path):
                return _read_file(path, address - start + offset, min(size, end - address))
        return b""

    def _is_same(self, path: str) -> bool:
        if path not in self._same:
            self._same[path] = self._compare(path)
        return self._same[path]

    def _compare(self, path: str) -> bool:
        """The first page of a mapped object is in the core file, and in it the build ID. Without
        that, another build may begin with the same bytes."""
        of_path = [start for start, _, offset, of in self._notes.files if (of, offset) == (path, 0)]
        for load in self._loads:
            if load.start in of_path:
                size = min(load.file_bytes, _FIRST_PAGE_BYTES)
                kept = self._data[load.offset : load.offset + size]
                return _BUILD_ID in kept and _read_file(path, 0, size) == kept
        return False


def _read_file(path: str, offset: int, size: int) -> bytes:
    """A part of a file; b"" if it can't be read."""
    with suppress(OSError, ValueError):
        descriptor = open_regular(path)
        try:
            return os.pread(descriptor, size, offset)
        finally:
            os.close(descriptor)
    return b""


def _notes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The type and the contents of each note of the kernel's."""
    at = 0
    while at + _NOTE.size <= len(data):
        name_size, size, kind = _NOTE.unpack_from(data, at)
        name_at = at + _NOTE.size
        contents_at = name_at + -(-name_size // 4) * 4
        at = contents_at + -(-size // 4) * 4
        if contents_at + size > len(data):
            return
        if data[name_at : name_at + name_size].rstrip(b"\0") in _CORE_OWNERS:
            yield kind, data[contents_at : contents_at + size]


def _take(notes: _Notes, kind: int, data: bytes) -> None:
    if kind == _NT_PRSTATUS and len(data) >= _STATUS_REGISTERS_AT + 8 * _REGISTERS:
        (tid,) = struct.unpack_from("<i", data, _STATUS_PID_AT)
        words = np.frombuffer(data, np.uint64, _REGISTERS, _STATUS_REGISTERS_AT)
        notes.threads.append((tid, words))
    elif kind == _NT_X86_XSTATE:
        words = np.frombuffer(data, np.uint64, len(data) // 8)
        notes.vectors.append((len(notes.threads) - 1, words))
    elif kind == _NT_PRPSINFO and len(data) >= _INFO_NAME_AT + _NAME_BYTES:
        (notes.pid,) = struct.unpack_from("<i", data, _INFO_PID_AT)
        name = data[_INFO_NAME_AT : _INFO_NAME_AT + _NAME_BYTES].split(b"\0", 1)[0]
        notes.name = os.fsdecode(name)
    elif kind == _NT_AUXV:
        values = np.frombuffer(data, np.uint64, len(data) // 16 * 2).reshape(-1, 2)
        of_entry = values[values[:, 0] == _AT_ENTRY, 1]
        notes.entry = int(of_entry[0]) if len(of_entry) else 0
    elif kind == _NT_FILE:
        notes.files = list(_files(data))


def _files(data: bytes) -> Iterator[tuple[int, int, int, str]]:
    """The mapped files: start, end, offset in bytes, path."""
    if len(data) < 16:
        return
    count, page_bytes = struct.unpack_from("<QQ", data)
    if count > (len(data) - 16) // 24:
        return
    names = data[16 + 24 * count :].split(b"\0")
    for number, name in zip(range(count), names, strict=False):
        start, end, page = struct.unpack_from("<QQQ", data, 16 + 24 * number)
        yield start, end, page * page_bytes, os.fsdecode(name)
