"""The dynamic loader of a process: its interface for debuggers (struct r_debug, link.h)."""

from __future__ import annotations

import os
import struct
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from leaktrace.abi import process as abi
from leaktrace.elf.headers import PF_X
from leaktrace.elf.object import ElfObject
from leaktrace.targets.mappings import Mapping, device_text
from leaktrace.targets.memory import ProcessMemory

_AT_PHDR, _AT_PHNUM = 3, 5  # getauxval(3)
_PT_DYNAMIC, _PT_PHDR = 2, 6
_DT_NULL, _DT_DEBUG = 0, 21
_MAX_PROGRAM_HEADERS = 128
_MAX_DYNAMIC_ENTRIES = 1024

_PAGE_BYTES = os.sysconf("SC_PAGESIZE")

_AUXILIARY = struct.Struct("<QQ")
_PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")  # Elf64_Phdr
_DYNAMIC_ENTRY = struct.Struct("<qQ")  # Elf64_Dyn
_R_DEBUG = struct.Struct("<iIQQ")  # r_version, padding, r_map, r_brk


class LoaderInterface(NamedTuple):
    """Addresses in the process."""

    r_debug: int  # struct r_debug, which contains the list of objects
    r_brk: int  # the function that the loader calls before and after each change of that list


class LoadedObject(NamedTuple):
    """An object that the loader has added to its list (struct load_event in
    bpf/process/types.h)."""

    generation: int  # of the executable image (abi.SESSION)
    epoch: int  # of the session; it began with this change
    start: int  # the address of the first byte of its file
    end: int  # exclusive; all code of the object is below
    identity: int  # differs between objects that are loaded at the same address
    fingerprint: int = 0  # unwind/fingerprint.py; 0 if only the identity was sent: see `is_whole`
    path: str = ""  # as the process gave it

    @property
    def place(self) -> tuple[int, int]:
        """The same whenever this object is loaded at this address."""
        return self.start, self.identity

    @property
    def is_whole(self) -> bool:
        """Whether fingerprint or path were sent. The kernel side sends them once per place."""
        return bool(self.fingerprint or self.path)

    @classmethod
    def from_message(cls, message: bytes) -> LoadedObject:
        """Decode an event of the kernel side, with what follows it."""
        event = np.frombuffer(message, abi.EVENT, 1)[0]
        start = int(event["address"])
        loaded = cls(
            generation=int(event["generation"]),
            epoch=int(event["epoch"]),
            start=start,
            end=start + int(event["size"]),
            identity=int(event["stack_id"]),
        )
        if len(message) < abi.LOAD_EVENT.itemsize:
            return loaded
        whole = np.frombuffer(message, abi.LOAD_EVENT, 1)[0]
        path = bytes(whole["path"]).split(b"\0", 1)[0]
        return loaded._replace(fingerprint=int(whole["fingerprint"]), path=os.fsdecode(path))


def code_mappings(elf: ElfObject, path: str, base: int) -> list[Mapping]:
    """The executable mappings that the loader makes of an object at `base` (glibc, elf/dl-load.c).

    Raises ObjectFileError when its file was closed and can't be opened again.
    """
    assert elf.descriptor is not None  # it was opened from a file
    status = os.fstat(elf.descriptor)
    device = device_text(status.st_dev)
    return [
        Mapping(
            start=base + segment.vaddr - segment.vaddr % _PAGE_BYTES,
            end=base - (-(segment.vaddr + segment.memory_size) // _PAGE_BYTES) * _PAGE_BYTES,
            permissions="r-xp",
            offset=segment.offset - segment.offset % _PAGE_BYTES,
            device=device,
            inode=status.st_ino,
            path=path,
        )
        for segment in elf.load_segments
        if segment.flags & PF_X
    ]


def loader_interface(pid: int) -> LoaderInterface | None:
    """The interface of the process's dynamic loader.

    None when it has no dynamic loader, the loader hasn't filled it in yet, or the process's memory
    can't be read.
    """
    with suppress(OSError, struct.error):
        auxiliary = dict(_AUXILIARY.iter_unpack(Path(f"/proc/{pid}/auxv").read_bytes()))
        with ProcessMemory(pid) as memory:
            return _read_interface(memory, auxiliary)
    return None


def _read_interface(memory: ProcessMemory, auxiliary: dict[int, int]) -> LoaderInterface | None:
    table, count = auxiliary.get(_AT_PHDR, 0), auxiliary.get(_AT_PHNUM, 0)
    data = memory.read(table, min(count, _MAX_PROGRAM_HEADERS) * _PROGRAM_HEADER.size)
    usable = data[: len(data) - len(data) % _PROGRAM_HEADER.size]
    headers: dict[int, tuple[int, ...]] = {}
    for header in _PROGRAM_HEADER.iter_unpack(usable):
        headers.setdefault(header[0], header)  # the loader takes the first of a kind
    if _PT_DYNAMIC not in headers:
        return None
    bias = table - headers[_PT_PHDR][3] if _PT_PHDR in headers else 0
    size = _MAX_DYNAMIC_ENTRIES * _DYNAMIC_ENTRY.size
    size = min(size, headers[_PT_DYNAMIC][6] // _DYNAMIC_ENTRY.size * _DYNAMIC_ENTRY.size)
    for tag, value in _DYNAMIC_ENTRY.iter_unpack(memory.read(bias + headers[_PT_DYNAMIC][3], size)):
        if tag == _DT_DEBUG and value:
            _, _, _, r_brk = _R_DEBUG.unpack(memory.read(value, _R_DEBUG.size))
            return LoaderInterface(value, r_brk) if r_brk else None
        if tag == _DT_NULL:
            break
    return None
