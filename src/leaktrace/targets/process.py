"""A traced process: its identity, and whether it is still running.

A process is held by a pidfd and identified by its start time, so a process that reuses the pid is
never taken for the target. Sources: pidfd_open(2), proc(5).
"""

from __future__ import annotations

import contextlib
import os
import re
import select
from dataclasses import dataclass
from pathlib import Path

from leaktrace.capabilities import Capability, refused
from leaktrace.errors import LeaktraceError, TargetError
from leaktrace.own.shortages import shortage

_PF_KTHREAD = 0x00200000  # include/linux/sched.h


@dataclass(frozen=True)
class _Status:
    """The fields of /proc/PID/stat that are used here."""

    name: str
    state: str
    flags: int
    threads: int
    start_ticks: int


def _read_status(pid: int) -> _Status:
    text = _read(pid, "stat")
    # The name is in parentheses and may contain any character, parentheses too.
    name, _, rest = text.partition("(")[2].rpartition(")")
    fields = rest.split()
    return _Status(
        name=name,
        state=fields[0],
        flags=int(fields[6]),
        threads=int(fields[17]),
        start_ticks=int(fields[19]),
    )


def _read(pid: int, name: str) -> str:
    """The text of a file in /proc/PID. Raises TargetError when there is no such process, and
    EnvironmentUnfitError when a resource for reading the file is missing: that doesn't show whether
    the process exists."""
    try:
        return Path(f"/proc/{pid}/{name}").read_text(errors="surrogateescape")
    except OSError as error:
        raise shortage(error) or _gone(pid) from None


def _gone(pid: int) -> TargetError:
    if _exists(pid):
        what = f"process {pid} is hidden from this user (/proc is mounted with hidepid)"
        return refused(what, Capability.SYS_PTRACE)
    return TargetError(
        f"there is no process {pid}", "check the process id (pgrep NAME); it may have ended"
    )


def _exists(pid: int) -> bool:
    """Whether there is such a process or thread, but /proc doesn't show it."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return not Path(f"/proc/{pid}").exists()


class Process:
    """A process that can be traced. Closing it closes its pidfd."""

    def __init__(self, pid: int) -> None:
        """Raises TargetError when there is no such process, or it has no memory to trace."""
        self.pid = pid
        status = _read_status(pid)
        if status.flags & _PF_KTHREAD:
            raise TargetError(
                f"process {pid} ({status.name}) is a kernel thread: it has no memory of its own",
                "use the pid of an ordinary process; --kernel traces the kernel's own allocations",
            )
        if status.state in "ZX" and status.threads > 1:
            raise TargetError(
                f"process {pid} ({status.name}) can't be traced: its first thread has exited, so "
                "its mappings can't be read",
                "start the program with -c to trace it from the start",
            )
        if status.state in "ZX":
            raise TargetError(
                f"process {pid} ({status.name}) has ended: its parent has not waited for it "
                "(zombie)",
                "trace the process that replaced it, or start the program with -c",
            )
        leader = _thread_group(pid)
        if leader != pid:
            raise TargetError(
                f"{pid} is a thread of process {leader}", f"trace the process: -p {leader}"
            )
        if pid == os.getpid():
            raise TargetError("leaktrace can't trace itself", "use another pid")
        try:
            self._pidfd = os.pidfd_open(pid)
        except OSError as error:
            raise shortage(error) or _gone(pid) from None
        self.start_ticks = status.start_ticks
        # The pidfd was opened after the start time was read: check that it is the same process.
        if _read_status(pid).start_ticks != status.start_ticks:
            self.close()
            raise _gone(pid)
        self.name = status.name

    def fileno(self) -> int:
        """The pidfd: readable once the process has ended."""
        return self._pidfd

    def is_alive(self) -> bool:
        """Whether it is still running; a zombie is not."""
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return not poll.poll(0)

    def is_stopped(self) -> bool:
        """Whether a signal has stopped it."""
        with contextlib.suppress(LeaktraceError):
            return _read_status(self.pid).state == "T"
        return False

    def read_name(self) -> str:
        """Its present name, which an exec changes; after its end, the last known one."""
        with contextlib.suppress(LeaktraceError):
            status = _read_status(self.pid)
            if status.start_ticks == self.start_ticks:
                self.name = status.name
        return self.name

    def children(self) -> list[int]:
        """Process ids of its children (/proc/PID/task/TID/children, proc(5))."""
        try:
            threads = list(Path(f"/proc/{self.pid}/task").iterdir())
            texts = [(thread / "children").read_text() for thread in threads]
        except OSError:
            return []  # it has ended, or the kernel lacks the file (CONFIG_PROC_CHILDREN)
        return [int(word) for text in texts for word in text.split()]

    def is_filtered(self) -> bool:
        """Whether a seccomp filter restricts its system calls (seccomp(2))."""
        try:
            status = Path(f"/proc/{self.pid}/status").read_text(errors="replace")
        except OSError:
            return False
        return bool(re.search(r"^Seccomp:\s*[12]", status, re.M))

    def close(self) -> None:
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1


def _thread_group(pid: int) -> int:
    status = _read(pid, "status")
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return int(fields["Tgid"])


def program_of(pid: int) -> tuple[str, tuple[int, int] | None]:
    """What a process runs: its name, and the file of its program (device and inode), None if this
    user may not see it. Raises TargetError when there is no such process."""
    status = _read_status(pid)
    if status.state in "ZX" or status.flags & _PF_KTHREAD or _thread_group(pid) != pid:
        raise _gone(pid)
    try:
        file = Path(f"/proc/{pid}/exe").stat()
    except OSError:
        return status.name, None
    return status.name, (file.st_dev, file.st_ino)


def is_running(pid: int) -> bool:
    """Whether there is such a process, and it has not ended. A zombie has."""
    with contextlib.suppress(LeaktraceError):
        return _read_status(pid).state not in "ZX"
    return False


def debugger_of(pid: int) -> int:
    """The pid of the process that traces one of its threads by ptrace(2) (TracerPid, proc(5)); 0 if
    there is none."""
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        try:
            match = re.search(r"^TracerPid:\s*(\d+)", status.read_text(errors="replace"), re.M)
        except OSError:
            continue  # the thread has ended
        if match and int(match[1]):
            return int(match[1])
    return 0
