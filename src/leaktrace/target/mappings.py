"""The memory mappings of a process, from /proc/PID/maps (proc_pid_maps(5))."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from leaktrace.capabilities import Capability, refused
from leaktrace.errors import TargetError

_LINE = re.compile(
    rb"([0-9a-f]+)-([0-9a-f]+) ([-rwxsp]{4}) ([0-9a-f]+) ([0-9a-f]+:[0-9a-f]+) ([0-9]+)(?: +(.*))?",
    re.DOTALL,
)
_DELETED = " (deleted)"


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

    @property
    def is_executable(self) -> bool:
        return "x" in self.permissions

    @property
    def is_file(self) -> bool:
        """Whether a file lies behind it that `open_path` opens."""
        return self.inode != 0

    def address_of(self, offset: int) -> int | None:
        """Where this byte of the file is; None outside of what is mapped here."""
        inside = self.offset <= offset < self.offset + self.end - self.start
        return self.start + offset - self.offset if inside else None

    def open_path(self, pid: int) -> str:
        """The path that opens the mapped file itself: deleted, replaced or in another namespace.

        Opening it needs CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE (proc_pid_map_files(5)).
        """
        return f"/proc/{pid}/map_files/{self.start:x}-{self.end:x}"


def read_mappings(pid: int) -> tuple[Mapping, ...]:
    """The mappings of a process by ascending address. Raises TargetError when there are none,
    TargetAccessError when they can't be read."""
    try:
        text = Path(f"/proc/{pid}/maps").read_bytes()
    except PermissionError as error:
        what = f"the memory mappings of process {pid} can't be read"
        raise refused(what, Capability.SYS_PTRACE) from error
    except OSError as error:  # ENOENT, or ESRCH when it ends while we read
        raise TargetError(
            f"process {pid} is gone", "check the process id: it may have ended just now"
        ) from error
    mappings = parse_mappings(text)
    if not mappings:
        raise TargetError(
            f"process {pid} has no memory: it has ended, or it is a kernel thread",
            "check the process id; --kernel traces the kernel's own allocations",
        )
    return mappings


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
