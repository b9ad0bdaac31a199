"""Probes on single instructions of a target, and the contents of its text with them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from leaktrace.bpf import links, support, syscalls
from leaktrace.bpf.links import UprobeLinks

BREAKPOINT = b"\xcc"


@dataclass(frozen=True)
class EmptyProbes:
    """Probes that run a program which does nothing."""

    _program: int

    @property
    def hits(self) -> int:
        """How often it ran, while the kernel counts that (`leaktrace.bpf.syscalls`)."""
        return syscalls.program_info(self._program).run_count


@contextmanager
def probed(
    kind: UprobeLinks, program: Path, offsets: Sequence[int], pid: int
) -> Iterator[EmptyProbes]:
    """Probe instructions at these offsets of a file, in one process."""
    path = str(program)
    if kind is UprobeLinks.EVENTS:
        empty = support.load_empty_program()
        held = [
            descriptor
            for offset in offsets
            for descriptor in links.attach_uprobe_event(
                empty, path, offset, 0, pid=pid, is_return=False
            )
        ]
    else:
        empty = support.load_empty_program(kind.attach_type)
        cookies = [0] * len(offsets)
        held = [links.attach_uprobes(empty, path, offsets, cookies, pid=pid)]
    try:
        yield EmptyProbes(empty)
    finally:
        for descriptor in [*held, empty]:
            os.close(descriptor)


def address_of(pid: int, program: Path, offset: int) -> int:
    """Where a process has an instruction of a file."""
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        bounds, permissions, begins, *rest = line.split(None, 5)
        if "x" in permissions and rest[-1] == str(program):
            start, end = (int(bound, 16) for bound in bounds.split("-"))
            address = start + offset - int(begins, 16)
            if start <= address < end:
                return address
    raise AssertionError(f"{program} is not mapped")


def text_at(pid: int, program: Path, offset: int, size: int) -> bytes:
    """What a process has there; with a probe it differs from the file."""
    with Path(f"/proc/{pid}/mem").open("rb") as memory:
        memory.seek(address_of(pid, program, offset))
        return memory.read(size)


def write_text(pid: int, program: Path, offset: int, content: bytes) -> None:
    """Write into the text, as a debugger does."""
    with Path(f"/proc/{pid}/mem").open("r+b", buffering=0) as memory:
        memory.seek(address_of(pid, program, offset))
        memory.write(content)
