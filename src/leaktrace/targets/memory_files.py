"""Which mapped files are memory, and not a part of a disk: those of a tmpfs, memfds, SysV segments.

Sources: proc_pid_maps(5), proc_pid_mountinfo(5); mm/shmem.c and ipc/shm.c, which name them.
"""

from __future__ import annotations

from pathlib import Path

from leaktrace.targets.mappings import Mapping

_SEGMENT = "/SYSV"
_MEMFD = "/memfd:"
_DEVICES, _SHM = "/dev/", "/dev/shm/"
_IN_MEMORY = (b"tmpfs", b"hugetlbfs", b"ramfs")
_WITHOUT_DISK = "00:"  # the major number of file systems that are on no device


def memory_devices(pid: int) -> frozenset[str]:
    """The device numbers, as in `Mapping.device`, of the file systems that a process sees and whose
    files are in memory. None where they can't be read."""
    try:
        lines = Path(f"/proc/{pid}/mountinfo").read_bytes().splitlines()
    except OSError:
        return frozenset()
    found = set()
    for line in lines:
        before, _, after = line.partition(b" - ")
        fields, kind = before.split(), after.split()
        if len(fields) > 2 and kind and kind[0] in _IN_MEMORY:
            major, _, minor = fields[2].decode("ascii", "replace").partition(":")
            if major.isdecimal() and minor.isdecimal():
                found.add(f"{int(major):02x}:{int(minor):02x}")
    return frozenset(found)


def is_shared_memory(mapping: Mapping, devices: frozenset[str]) -> bool:
    """Whether a shared mapping is of a memfd, or of a file on one of these devices."""
    if mapping.path.startswith(_DEVICES) and not mapping.path.startswith(_SHM):
        return False  # of a container, whose device nodes are in a tmpfs
    is_memfd = mapping.path.startswith(_MEMFD) and mapping.device.startswith(_WITHOUT_DISK)
    return is_memfd or mapping.device in devices


def is_of_segment(mapping: Mapping) -> bool:
    """Whether a shared mapping is a part of a SysV segment."""
    return mapping.path.startswith(_SEGMENT) and mapping.device.startswith(_WITHOUT_DISK)


def is_segment(mapping: Mapping, address: int) -> bool:
    """Whether it is a part of the one that is attached at an address."""
    return is_of_segment(mapping) and mapping.start - mapping.offset == address
