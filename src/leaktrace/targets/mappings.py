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
_EXEC_TAKES_S = (0.001, 0.005, 0.02)  # pauses between reads while there are no mappings


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
    deleted: bool = False  # the file was removed or replaced after it was mapped
    # For a copy of the file's code (moved_text.py): where a part of the file itself is mapped.
    file_at: tuple[int, int] | None = None

    @property
    def is_executable(self) -> bool:
        return "x" in self.permissions

    @property
    def is_file(self) -> bool:
        """Whether it maps a file (targets/mapped_files.py opens it)."""
        return self.inode != 0

    def address_of(self, offset: int) -> int | None:
        """The address of a byte of the file; None if this mapping doesn't contain it."""
        inside = self.offset <= offset < self.offset + self.end - self.start
        return self.start + offset - self.offset if inside else None

    def has_numbers_of(self, status: os.stat_result) -> bool:
        """Whether device and inode are those of a file. In an overlay or on btrfs they differ even
        for the mapped file itself."""
        return (self.device, self.inode) == (device_text(status.st_dev), status.st_ino)

    def is_of(self, descriptor: int) -> bool:
        """Whether an open file is the mapped one: another file may have been mapped at this address
        since the mappings were read."""
        status = os.fstat(descriptor)
        if self.device == device_text(status.st_dev):
            return self.has_numbers_of(status)
        # An overlay or btrfs: only the path is left to compare.
        path = os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115 (bytes as they are)
        return path.removesuffix(_DELETED) == self.path


def device_text(device: int) -> str:
    """A device number (st_dev, stat(2)) as /proc/PID/maps writes it: "103:02"
    (show_vma_header_prefix, fs/proc/task_mmu.c)."""
    return f"{os.major(device):02x}:{os.minor(device):02x}"


class NoMappingsError(TargetError):
    """The process has no mappings, or none that the kernel shows."""


def read_mappings(pid: int) -> tuple[Mapping, ...]:
    """The mappings of a process by ascending address.

    During execve(2) a process has no mappings for a moment; this waits until it has some. Raises
    TargetAccessError when the kernel refuses to show them, NoMappingsError when there are none.
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
            f"process {pid} has no mappings: it keeps executing new programs, or is a kernel "
            "thread",
            "try again; --kernel traces the kernel's own allocations",
        )
    raise NoMappingsError(
        f"process {pid} no longer has memory: it has ended, or its first thread has",
        "check the process id",
    )


def _mappings_now(pid: int) -> tuple[Mapping, ...]:
    return parse_mappings(read_map_file(pid, "maps"))


def read_map_file(pid: int, name: str) -> bytes:
    """The text of /proc/PID/maps or smaps; b"" if the process has ended or executes a program just
    now. Raises TargetAccessError when the kernel refuses to show it."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except PermissionError as error:
        what = f"the memory mappings of process {pid} can't be read"
        raise refused(what, Capability.SYS_PTRACE) from error
    except OSError as error:  # ENOENT, or ESRCH when it ends or executes a program just now
        missing = shortage(error)
        if missing is not None:
            raise missing from error
        return b""


def parse_mappings(text: bytes) -> tuple[Mapping, ...]:
    """The mappings in the text of /proc/PID/maps. Lines of another form are skipped."""
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
