"""All processes of the machine and the memory that they hold, from /proc.

A process is known by its pid and its start time, so one that reuses a pid is another process. The
file `stat` is read of each, `status` only of those whose resident pages or page faults have
changed: the others hold what they held. Sources: proc_pid_stat(5), proc_pid_status(5).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from leaktrace.errors import EnvironmentUnfitError
from leaktrace.ranks import ProcessMemory
from leaktrace.targets.memory_use import parse_memory

_PF_KTHREAD = 0x00200000  # include/linux/sched.h
_MOST_BYTES = 1 << 14  # of a file: a status has 1 to 2 KiB
# The last part of a cgroup's path that says something: a unit, or a container.
_UNIT = re.compile(r"(?:^|/)([^/]+\.(?:service|scope|slice))/?$")
_CONTAINER = re.compile(r"(?:^|[/-])([0-9a-f]{64})(?:\.scope)?/?$")


@dataclass(frozen=True, slots=True)
class SeenProcess:
    """A process at one moment."""

    pid: int
    start_ticks: int  # after the boot
    command: str
    resident_pages: int
    faults: int  # as the kernel counts them for the process
    memory: ProcessMemory

    @property
    def key(self) -> tuple[int, int]:
        return self.pid, self.start_ticks


@dataclass(frozen=True)
class Scan:
    """What one look at /proc found."""

    processes: Mapping[int, SeenProcess]  # by pid; those that have memory
    unreadable_count: int  # processes of which /proc shows nothing to this user

    def get(self, pid: int) -> SeenProcess | None:
        return self.processes.get(pid)


def scan(previous: Scan | None = None) -> Scan:
    """Read every process but this one. Raises EnvironmentUnfitError where /proc can't be read."""
    found: dict[int, SeenProcess] = {}
    unreadable_count, own_pid = 0, os.getpid()
    try:
        names = os.listdir("/proc")  # noqa: PTH208 (a Path for each takes longer)
    except OSError as error:
        raise EnvironmentUnfitError(
            f"can't list the processes in /proc: {error.strerror}", "mount /proc: proc(5)"
        ) from None
    for name in names:
        if not name.isdecimal() or int(name) == own_pid:
            continue
        pid = int(name)
        try:
            one = _look_at(pid, None if previous is None else previous.get(pid))
        except PermissionError:  # /proc is mounted with hidepid=1
            unreadable_count += 1
            continue
        except OSError:
            continue  # it has ended
        if one is not None:
            found[pid] = one
    return Scan(found, unreadable_count)


def _look_at(pid: int, previous: SeenProcess | None) -> SeenProcess | None:
    """None for a thread of the kernel, and a process that has ended. Raises OSError.

    Both files are opened in the process's own directory, which never becomes another process's.
    """
    folder = os.open(f"/proc/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # The name is in parentheses and may contain any character, parentheses too.
        before, _, after = _read("stat", folder).rpartition(")")
        fields = after.split()
        if int(fields[6]) & _PF_KTHREAD or fields[0] in "ZX":
            return None
        start_ticks, pages = int(fields[19]), int(fields[21])
        faults = int(fields[7]) + int(fields[9])
        if previous is not None and (
            previous.start_ticks,
            previous.resident_pages,
            previous.faults,
        ) == (start_ticks, pages, faults):
            memory = previous.memory
        else:
            held = parse_memory(_read("status", folder))
            if held is None:
                return None
            memory = ProcessMemory(held.resident, held.not_resident)
    finally:
        os.close(folder)
    command = before.partition("(")[2]
    return SeenProcess(pid, start_ticks, command, pages, faults, memory)


def _read(name: str, folder: int) -> str:
    file = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
    try:
        return os.read(file, _MOST_BYTES).decode(errors="surrogateescape")
    finally:
        os.close(file)


def unit_of(pid: int) -> str:
    """The systemd unit that a process is in, or the first digits of its container's id; "" if
    neither is known (cgroups(7))."""
    try:
        with open(f"/proc/{pid}/cgroup", errors="surrogateescape") as file:  # noqa: PTH123
            return unit_in(file.read(_MOST_BYTES))
    except OSError:
        return ""


def unit_in(text: str) -> str:
    """The same, from the text of /proc/PID/cgroup."""
    for line in text.splitlines():
        path = line.split(":", 2)[-1]
        if container := _CONTAINER.search(path):
            return container[1][:12]
        if unit := _UNIT.search(path):
            return unit[1]
    return ""
