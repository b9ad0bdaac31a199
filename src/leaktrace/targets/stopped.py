"""Why a process is stopped: by a signal, a debugger, or a frozen cgroup.

A stopped process allocates nothing, and its reports look like those of a process without leaks.
Sources: proc(5), ptrace(2), cgroups(7), Documentation/admin-guide/cgroup-v2.rst (cgroup.freeze,
cgroup.events) and cgroup-v1/freezer-subsystem.rst.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from leaktrace.printable import printable

_STOPPED, _TRACED, _ENDED = "T", "t", "ZX"
_ESCAPE = re.compile(r"\\([0-7]{3})")  # of a space and some other characters in mountinfo


def why_stopped(pid: int) -> str:
    """Why no thread of a process runs, as text for a report; "" if any may run."""
    reason = _by_state(pid) or _frozen(pid)
    return f"it is stopped and allocates nothing: {reason}" if reason else ""


class _Thread(NamedTuple):
    state: str
    tracer: int  # the pid of the debugger; 0: none


def _by_state(pid: int) -> str:
    # A process may have thousands of threads: they are read only if the first one doesn't run.
    if _thread(Path(f"/proc/{pid}")).state not in _STOPPED + _TRACED + _ENDED:
        return ""
    threads = [_thread(folder) for folder in Path(f"/proc/{pid}/task").glob("*")]
    threads = [thread for thread in threads if thread.state not in _ENDED]
    if not threads or any(thread.state not in _STOPPED + _TRACED for thread in threads):
        return ""
    for thread in threads:
        if thread.state == _TRACED:
            return (
                f"a debugger has stopped it: {tracer_name(thread.tracer)} (process {thread.tracer})"
            )
    return f"a signal stopped it (SIGSTOP, SIGTSTP); kill -CONT {pid} continues it"


def _thread(folder: Path) -> _Thread:
    """A thread, or the first one of a process. One that doesn't exist counts as ended."""
    try:
        status = (folder / "status").read_text(errors="replace")
    except OSError:
        return _Thread(_ENDED[0], 0)
    fields = dict(line.partition(":")[::2] for line in status.splitlines())
    return _Thread(fields["State"].strip()[:1], int(fields["TracerPid"]))


def tracer_name(pid: int) -> str:
    """The name of a debugger, for people; `pid` is 0 if it is in another pid namespace."""
    try:
        return printable(Path(f"/proc/{pid}/comm").read_text(errors="surrogateescape").strip())
    except OSError:
        return "of another pid namespace" if not pid else "which has ended"


def _frozen(pid: int) -> str:
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text(errors="replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        hierarchy, controllers, path = line.split(":", 2)
        if hierarchy == "0":
            found = _frozen_by_v2(path)
        elif "freezer" in controllers.split(","):
            found = _frozen_by_v1(path)
        else:
            continue
        if found is not None:
            return f"its cgroup is frozen, {printable(str(found))}"
    return ""


def _frozen_by_v2(path: str) -> Path | None:
    """The frozen cgroup: the one at this path, or one above it."""
    folder = _folder("cgroup2", "", path)
    if folder is None:
        return None
    asked = next(
        (one for one in (folder, *folder.parents) if _has_line(one / "cgroup.freeze", "1")), None
    )
    if asked is None and not _has_line(folder / "cgroup.events", "frozen 1"):
        return None
    return asked or folder


def _frozen_by_v1(path: str) -> Path | None:
    folder = _folder("cgroup", "freezer", path)
    states = ("FROZEN", "FREEZING")
    frozen = folder and any(_has_line(folder / "freezer.state", state) for state in states)
    return folder if frozen else None


def _has_line(file: Path, line: str) -> bool:
    """Whether a cgroup's file has this line. The root cgroup lacks these files."""
    with contextlib.suppress(OSError):
        return line in file.read_text().splitlines()
    return False


def _folder(file_system: str, option: str, path: str) -> Path | None:
    """The directory of a cgroup; None if it isn't mounted where leaktrace can see it."""
    mounts = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    for line in mounts.splitlines():
        mount, _, source = line.partition(" - ")
        kind, _, options = source.split(" ", 2)
        if kind != file_system or (option and option not in options.split(",")):
            continue
        root, place = (_unescaped(word) for word in mount.split(" ")[3:5])
        with contextlib.suppress(ValueError):
            folder = Path(place) / PurePosixPath(path).relative_to(root)
            if ".." not in folder.parts:  # above the root of our cgroup namespace
                return folder
    return None


def _unescaped(word: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), word)
