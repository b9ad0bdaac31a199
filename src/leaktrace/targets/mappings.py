"""The memory mappings of a process, from /proc/PID/maps (proc_pid_maps(5))."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from leaktrace.capabilities import Capability, refused
from leaktrace.errors import TargetError
from leaktrace.own.shortages import shortage
from leaktrace.targets.process import is_running

_LINE = re.compile(
    rb"([0-9a-f]+)-([0-9a-f]+) ([-rwxsp]{4}) ([0-9a-f]+) ([0-9a-f]+:[0-9a-f]+) ([0-9]+)(?: +(.*))?",
    re.DOTALL,
)
_DELETED = " (deleted)"
_EXEC_TAKES_S = (0.001, 0.005, 0.02)  # between looks at a process that has no mappings


@dataclass(frozen=True)
class Mapping:
    """One line of /proc/PID/maps: `end` is exclusive, `offset` is in the file, all in bytes."""

    start: int
    end: int
    permissions: str  # "r-xp"
    offset: int
    device: str  # "major:minor" in hexadecimal, as the kernel writes it
    inode: int
    path: str  # as the target sees it; "[heap]" and the like; "" for anonymous memory
    deleted: bool = False  # the file was removed or replaced since it was mapped
    # Of a copy of the file's code (moved_text.py): where a part of the file itself is mapped.
    file_at: tuple[int, int] | None = None

    @property
    def is_executable(self) -> bool:
        return "x" in self.permissions

    @property
    def is_file(self) -> bool:
        """Whether a file lies behind it (targets/mapped_files.py opens it)."""
        return self.inode != 0

    def address_of(self, offset: int) -> int | None:
        """Where this byte of the file is; None outside of what is mapped here."""
        inside = self.offset <= offset < self.offset + self.end - self.start
        return self.start + offset - self.offset if inside else None

    def is_of(self, descriptor: int) -> bool:
        """Whether an open file is the mapped one: since the mappings were read, another may have
        come to that place."""
        status = os.fstat(descriptor)
        if f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}" == self.device:
            return status.st_ino == self.inode
        # In an overlay or on btrfs the mapping has other numbers than the file.
        path = os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115 (bytes as they are)
        return path.removesuffix(_DELETED) == self.path


class NoMappingsError(TargetError):
    """The process has no mappings, or none that the kernel shows."""


def read_mappings(pid: int) -> tuple[Mapping, ...]:
    """The mappings of a process by ascending address.

    Raises TargetAccessError when they may not be read, NoMappingsError when there are none. While
    it executes another program a process has none for a moment: that is waited for.
    """
    for wait_s in _EXEC_TAKES_S:
        mappings = _mappings_now(pid)
        if mappings or not is_running(pid):
            break
        time.sleep(wait_s)
    else:
        mappings = _mappings_now(pid)
    if mappings:
        return mappings
    if is_running(pid):
        raise NoMappingsError(
            f"process {pid} has no mappings: it executes one program after the other, or is a "
            "kernel thread",
            "try again; --kernel traces the kernel's own allocations",
        )
    raise NoMappingsError(
        f"process {pid} has no memory any more: it, or its first thread, has ended",
        "check the process id",
    )


def _mappings_now(pid: int) -> tuple[Mapping, ...]:
    try:
        text = Path(f"/proc/{pid}/maps").read_bytes()
    except PermissionError as error:
        what = f"the memory mappings of process {pid} can't be read"
        raise refused(what, Capability.SYS_PTRACE) from error
    except OSError as error:  # ENOENT, or ESRCH when it ends or executes a program meanwhile
        missing = shortage(error)
        if missing is not None:
            raise missing from error
        return ()
    return parse_mappings(text)


def parse_mappings(text: bytes) -> tuple[Mapping, ...]:
    """The mappings in the text of /proc/PID/maps."""
    parsed = (_parse_line(line) for line in text.split(b"\n"))
    return tuple(mapping for mapping in parsed if mapping is not None)


def _parse_line(line: bytes) -> Mapping | None:
    match = _LINE.fullmatch(line)
    if match is None:
        return None
    start, end, permissions, offset, device, inode, name = match.groups()
    # seq_path() escapes a newline, and nothing else, as an octal number.
    path = os.fsdecode((name or b"").replace(rb"\012", b"\n"))
    deleted = int(inode) != 0 and path.endswith(_DELETED)
    return Mapping(
        start=int(start, 16),
        end=int(end, 16),
        permissions=permissions.decode(),
        offset=int(offset, 16),
        device=device.decode(),
        inode=int(inode),
        path=path.removesuffix(_DELETED) if deleted else path,
        deleted=deleted,
    )
