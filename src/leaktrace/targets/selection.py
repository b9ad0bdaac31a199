"""Finds the processes that are meant by a name or a control group."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from leaktrace.errors import TargetError
from leaktrace.printable import printable

_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")
_MOST_NEAR = 3


def processes_named(pattern: re.Pattern[str]) -> tuple[int, ...]:
    """The ids of the processes whose name, or whose program's file name, the pattern matches
    somewhere (re.search), in ascending order. Leaktrace itself and its own processes are left out.

    Raises TargetError when there is none.
    """
    found: list[int] = []
    seen: set[str] = set()
    own = _own_processes()
    for pid in _all_processes():
        names = _names_of(pid)
        seen |= names
        if pid not in own and any(pattern.search(name) for name in names):
            found.append(pid)
    if not found:
        near = difflib.get_close_matches(pattern.pattern, sorted(seen), _MOST_NEAR)
        raise TargetError(
            f"no process has a name that matches {printable(pattern.pattern)}",
            f"near names: {', '.join(map(printable, near))}" if near else "ps -e lists the names",
        )
    return tuple(sorted(found))


def _all_processes() -> Iterator[int]:
    for entry in _PROC.iterdir():
        if entry.name.isdecimal():
            yield int(entry.name)


def _names_of(pid: int) -> set[str]:
    """Its name (comm) and that of its program's file; none for a kernel thread, which has no
    program, and for a process that has ended."""
    names: set[str] = set()
    with suppress(OSError):
        arguments = (_PROC / str(pid) / "cmdline").read_bytes()
        if not arguments:
            return names
        names.add((_PROC / str(pid) / "comm").read_text(errors="surrogateescape").rstrip("\n"))
        names.add(Path(os.fsdecode(arguments.split(b"\0", 1)[0])).name)
    return names - {""}


def _own_processes() -> set[int]:
    """This process, its parents (a shell or sudo that names it), and its children."""
    own = {os.getpid()}
    pid = os.getppid()
    while pid > 1 and _names_of(pid) & {"sudo", "doas", "timeout", "sh"}:
        own.add(pid)
        pid = _parent_of(pid)
    with suppress(OSError):
        for task in (_PROC / "self/task").iterdir():
            own |= {int(word) for word in (task / "children").read_text().split()}
    return own


def _parent_of(pid: int) -> int:
    with suppress(OSError, ValueError, IndexError):
        return int((_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
    return 0


def processes_in_cgroup(path: str) -> tuple[int, ...]:
    """The ids of the processes in a control group and in those below it, in ascending order.

    `path`: a directory of the cgroup file system, a path within it as /proc/PID/cgroup shows it, or
    the name of one group (nginx.service). Raises TargetError when there is no such group, or it has
    no processes.
    """
    folder = _folder_of(path)
    found: set[int] = set()
    for group, _, _ in os.walk(folder):  # which ignores groups that are removed meanwhile
        with suppress(OSError):  # threaded groups have no processes
            found |= {int(word) for word in (Path(group) / "cgroup.procs").read_text().split()}
    found -= _own_processes() | {0}  # 0: a process of another pid namespace
    if not found:
        raise TargetError(
            f"the control group {printable(path)} has no processes",
            "systemd-cgls lists the groups and their processes",
        )
    return tuple(sorted(found))


def _folder_of(path: str) -> Path:
    """The directory of a group. Raises TargetError."""
    given = Path(path)
    inside = given.relative_to("/") if given.is_absolute() else given
    roots = (_CGROUPS, *(_CGROUPS / one for one in ("unified", "systemd", "memory", "pids")))
    candidates = [given] if given.is_relative_to(_CGROUPS) else [root / inside for root in roots]
    for candidate in candidates:
        if (candidate / "cgroup.procs").exists():
            return candidate
    names: dict[str, Path] = {}
    for group, _, files in os.walk(_CGROUPS):
        if "cgroup.procs" in files:
            if Path(group).name == path:
                return Path(group)
            names[Path(group).name] = Path(group)
    near = difflib.get_close_matches(given.name, list(names), _MOST_NEAR)
    raise TargetError(
        f"there is no control group {printable(path)}",
        f"near names: {', '.join(map(printable, near))}"
        if near
        else "cat /proc/PID/cgroup shows the group of a process",
    )
