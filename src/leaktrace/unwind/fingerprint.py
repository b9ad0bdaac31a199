"""How an object file is recognized in memory: by a hash of its first bytes, which
bpf/process/objects.bpf.c computes from the target's memory."""

from __future__ import annotations

import struct

from leaktrace.abi.common import HASH_MULTIPLIER, HASH_SHIFT
from leaktrace.abi.process import FINGERPRINT_WORDS
from leaktrace.elf.object import ElfObject
from leaktrace.errors import ObjectFileError

FINGERPRINT_BYTES = 8 * FINGERPRINT_WORDS
_MASK = (1 << 64) - 1


def fingerprint(elf: ElfObject) -> int:
    """The hash of the first FINGERPRINT_BYTES: ELF header, program headers, and what follows them.
    The loaded object begins with the same bytes. 0 where the file is shorter."""
    head = _head(elf)
    value = 1 if head else 0
    for (word,) in struct.iter_unpack("<Q", head):
        value = (value ^ word) * HASH_MULTIPLIER & _MASK
        value ^= value >> HASH_SHIFT
    return value


def is_unmistakable(elf: ElfObject) -> bool:
    """Whether the fingerprint covers the object's build ID, so that no other object has it."""
    return elf.build_id is not None and bytes.fromhex(elf.build_id) in _head(elf)


def _head(elf: ElfObject) -> bytes:
    if elf.file_size < FINGERPRINT_BYTES:
        return b""
    try:
        return elf.read(0, FINGERPRINT_BYTES)
    except ObjectFileError:
        return b""
