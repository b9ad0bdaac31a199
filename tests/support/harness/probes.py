"""Probes that other tools may have attached to a target."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from leaktrace.bpf import links, support
from leaktrace.elf.object import ElfObject


def offset_of(program: Path, function: str) -> int:
    """Where a function begins in its file."""
    with ElfObject.open(str(program)) as elf:
        offset = elf.vaddr_to_offset(elf.functions([function])[function].vaddr)
        assert offset is not None
        return offset


@contextmanager
def return_probe(program: Path, functions: Sequence[str], pid: int) -> Iterator[None]:
    """Another tool, with return probes on these functions."""
    empty = support.load_empty_program()
    held = [empty]
    for function in functions:
        held += links.attach_uprobe_event(
            empty, str(program), offset_of(program, function), 0, pid=pid, is_return=True
        )
    try:
        yield
    finally:
        for descriptor in held:
            os.close(descriptor)
