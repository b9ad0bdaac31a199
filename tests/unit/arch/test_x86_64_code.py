"""Decoding from the middle of a piece of code."""

from __future__ import annotations

import os

from leaktrace.arch.x86_64_code import decode, decode_from
from leaktrace.elf.object import ElfObject
from leaktrace.targets.mappings import read_mappings

BASE = 0x1000
# push %rbp; mov %rsp,%rbp; call 0x1100; pop %rbp; ret; and what can't be decoded; ret
CODE = bytes.fromhex("55 4889e5 e8f7000000 5d c3") + b"\x06\xc3"


def test_the_rest_of_the_code_from_an_instruction_on() -> None:
    whole = list(decode(CODE, BASE))
    assert [one.address - BASE for one in whole] == [0, 1, 4, 9, 10]
    for at, one in enumerate(whole):
        assert list(decode_from(CODE, BASE, one.address)) == whole[at:]


def test_nothing_where_no_instruction_is() -> None:
    begins = {one.address for one in decode(CODE, BASE)}
    for address in set(range(BASE - 2, BASE + len(CODE) + 2)) - begins:
        assert list(decode_from(CODE, BASE, address)) == []


def test_real_code() -> None:
    """Of the C library's malloc."""
    path = next(m.path for m in read_mappings(os.getpid()) if "/libc.so" in m.path)
    with ElfObject.open(path) as elf:
        malloc = elf.functions(["malloc"])["malloc"]
        code = elf.read_vaddr(malloc.vaddr, malloc.size)
    whole = list(decode(code, malloc.vaddr))
    assert len(whole) > 10
    for at in range(0, len(whole), 7):
        assert list(decode_from(code, malloc.vaddr, whole[at].address)) == whole[at:]
