"""Switches on the profile of a Go runtime that was built without it, by one word of its memory, and
puts the word back at the end.

Signals that would end leaktrace are an orderly end meanwhile. SIGKILL can't be, nor can a fault of
leaktrace itself (SIGSEGV). So the old value is in a file first, and the next `leaktrace go` of that
process puts it back. The file is in /run, which a reboot empties.
"""

from __future__ import annotations

import json
import os
import pwd
import select
import signal
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

from leaktrace.errors import EnvironmentUnfitError, LeaktraceError, TargetError
from leaktrace.notices import notify
from leaktrace.own.interrupts import ENDING, Interrupts
from leaktrace.printable import printable
from leaktrace.runtimes.go.heap import Heap
from leaktrace.runtimes.go.memory import GoMemory
from leaktrace.targets.process import Process, is_running, program_of
from leaktrace.targets.remote_write import write_word

_MAX_RECORD_BYTES = 4096
_USER_TIMEOUT_MS = 5000
# What doesn't end a process, or can't be handled: these two, and faults, which would come again.
_OTHERS = {
    *(signal.SIGKILL, signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU),
    *(signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH),
    *(signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL),
}


@dataclass(frozen=True)
class _Record:
    """What was written to a process. Times are those of /proc/PID/stat, in ticks since the boot."""

    pid: int
    start_ticks: int
    device: int  # of its program: after an exec, the address means something else
    inode: int
    address: int
    old: int
    new: int
    writer_pid: int
    writer_start_ticks: int


@contextmanager
def profile_on(
    process: Process, heap: Heap | None, rate_bytes: int, interrupts: Interrupts
) -> Iterator[bool]:
    """While entered, the profile of the process is switched on. Yields whether it was off: else
    nothing is written. Raises LeaktraceError where that can't be done.

    Signals that would kill leaktrace end the run by `interrupts` meanwhile."""
    address, old = _rate(process, heap)
    if old:
        notify(
            f"process {process.pid} keeps its profile already (one allocation in {old:,} bytes): "
            "nothing is written to it"
        )
        yield False
        return
    path = _path(process)
    _forget_ended(path.parent)
    if (other := _load(path)) is not None:
        raise TargetError(
            f"leaktrace {other.writer_pid} has switched on the profile of process {process.pid}",
            "leave out --go-enable-profile, or end the other one first",
        )
    record = _record(process, address, old, rate_bytes)
    with _ends_in_order(interrupts):
        try:
            # No signal may come between the note and the word.
            with _held_back():
                _save(path, record)
                _write(record)
            notify(
                f"WRITTEN to process {process.pid}: runtime.MemProfileRate at {address:#x} is "
                f"{rate_bytes:,} now, and was {old}. It is put back when leaktrace ends; if that "
                f"is killed by SIGKILL, by the next `leaktrace go -p {process.pid}`"
            )
            yield True
        finally:
            with _held_back():
                _put_back(path, record)


@contextmanager
def _ends_in_order(interrupts: Interrupts) -> Iterator[None]:
    """While entered, a signal that would kill leaktrace ends the run instead. Signals that someone
    handles or ignores are left to that."""

    def end(number: int, _frame: FrameType | None) -> None:
        if interrupts.received is None:
            interrupts.received = signal.Signals(number)

    # Real-time signals have no names, and count as the usual one.
    def end_unnamed(_number: int, frame: FrameType | None) -> None:
        end(signal.SIGTERM, frame)

    handled = [one for one in _deadly() if signal.getsignal(one) is signal.SIG_DFL]
    named = set(signal.Signals)
    try:
        for one in handled:
            signal.signal(one, end if one in named else end_unnamed)
        yield
    finally:
        for one in handled:
            signal.signal(one, signal.SIG_DFL)


@contextmanager
def _held_back() -> Iterator[None]:
    """While entered, no signal that ends leaktrace comes; they come afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*ENDING, *_deadly()})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _deadly() -> set[int]:
    """The signals that end a process, if it does nothing about that (signal(7))."""
    return {int(one) for one in signal.valid_signals()} - _OTHERS


def _rate(process: Process, heap: Heap | None) -> tuple[int, int]:
    """Where the rate of the profile is, and what it is. Nothing is ever written to a version of Go
    that isn't known, even if all looks as it should."""
    if heap is not None and not heap.is_known_version:
        raise TargetError(
            f"the profile of process {process.pid} is not switched on: "
            f"{printable(heap.version)} is not known here, and nothing is written to an unknown "
            "version",
            "leave out --go-enable-profile; a newer version of leaktrace may know it",
        )
    try:
        address = None if heap is None else heap.profile.writable_rate()
        rate = None if heap is None else heap.profile.rate_bytes()
    except OSError as error:
        raise TargetError(
            f"process {process.pid} has ended", "check the process id (pgrep NAME)"
        ) from error
    if address is None or rate is None:
        raise TargetError(
            f"the profile of process {process.pid} can't be switched on: its rate "
            "(runtime.MemProfileRate) was not found",
            "leave out --go-enable-profile",
        )
    return address, rate


def _write(record: _Record) -> None:
    try:
        write_word(record.pid, record.address, record.new)
    except OSError as error:
        raise TargetError(
            f"the profile of process {record.pid} can't be switched on: {error.strerror}",
            "it needs root or CAP_SYS_PTRACE, and a process that has not ended",
        ) from error


def repair(process: Process) -> None:
    """Put back what a leaktrace has left in the process that was killed: of this user, and as root
    also of the user whose process it is."""
    _repair(process)
    if os.geteuid() == 0:
        with suppress(OSError, KeyError):
            owner = Path(f"/proc/{process.pid}").stat().st_uid
            if owner and _directory(owner).parent.is_dir():
                _repair_as(pwd.getpwuid(owner), process)


def _repair(process: Process) -> None:
    path = _path(process, make=False)
    record = _load(path)
    if record is None or _is_same(record.writer_pid, record.writer_start_ticks):
        return
    with _held_back():
        _put_back(path, record)


def _repair_as(user: pwd.struct_passwd, process: Process) -> None:
    """The same in a child that is this user, for good. A note of others may say anything, and its
    directory may be anything: the kernel lets the child do only what they could do themselves."""
    with _held_back():
        child = os.fork()
        if child == 0:
            try:
                os.setgroups([])
                os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
                os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
                _repair(process)
                sys.stderr.flush()
            finally:
                os._exit(0)
        # The user can stop it: it isn't waited for without end.
        ended = os.pidfd_open(child)
        poll = select.poll()
        poll.register(ended, select.POLLIN)
        if not poll.poll(_USER_TIMEOUT_MS):
            os.kill(child, signal.SIGKILL)
            notify(
                f"what user {user.pw_uid} may have left in process {process.pid} was not looked "
                f"at: it took longer than {_USER_TIMEOUT_MS // 1000} seconds"
            )
        os.close(ended)
        os.waitpid(child, 0)


def _put_back(path: Path, record: _Record) -> None:
    """Only where the process and its program are the same, and the word is still what was
    written."""
    what = f"runtime.MemProfileRate of process {record.pid}"
    reason = ""
    try:
        program = _program(record.pid)
        if program is None:
            reason = "its program can't be seen"
        elif program == (record.device, record.inode) and _is_same(record.pid, record.start_ticks):
            now = GoMemory(record.pid).word(record.address)
            if now is None:
                reason = "it can't be read"
            elif now == record.new:
                write_word(record.pid, record.address, record.old)
                notify(f"put back: {what} is {record.old} again")
            elif now != record.old:
                notify(f"not put back: {what} is {now} now, and was changed by someone else")
    except OSError as error:
        reason = error.strerror or str(error)
    if reason and _is_same(record.pid, record.start_ticks) and is_running(record.pid):
        notify(
            f"NOT put back: {what}, which was set to {record.new}: {reason}. The next `leaktrace "
            f"go -p {record.pid}` tries again"
        )
        return
    with suppress(OSError):
        path.unlink(missing_ok=True)


def _record(process: Process, address: int, old: int, new: int) -> _Record:
    program = _program(process.pid)
    writer = os.getpid()
    start_ticks = _start_ticks(writer)
    if program is None or start_ticks is None:
        raise TargetError(
            f"the program of process {process.pid} can't be seen", "run as root: sudo leaktrace …"
        )
    return _Record(
        process.pid, process.start_ticks, *program, address, old, new, writer, start_ticks
    )


def _path(process: Process, *, make: bool = True) -> Path:
    """The file for a process. Raises EnvironmentUnfitError if its directory can't be made, or
    isn't ours alone."""
    user = os.geteuid()
    directory = _directory(user)
    if make:
        try:
            directory.mkdir(mode=0o700, exist_ok=True)
            status = directory.lstat()
        except OSError as error:
            raise _no_record(directory, error.strerror or "") from error
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != user or status.st_mode & 0o022:
            raise _no_record(directory, "others can write there")
    return directory / f"go-profile-{process.pid}-{process.start_ticks}.json"


def _directory(user: int) -> Path:
    parent = Path("/run") if user == 0 else Path(f"/run/user/{user}")
    return parent / "leaktrace"


def _no_record(path: Path, why: str) -> EnvironmentUnfitError:
    return EnvironmentUnfitError(
        f"what --go-enable-profile changes can't be noted in {path}: {why}",
        "without that note, a leaktrace that is killed would leave the profile switched on",
    )


def _forget_ended(directory: Path) -> None:
    """Remove notes about processes that have ended."""
    for path in directory.glob("go-profile-*.json"):
        record = _load(path)
        if record is not None and not _is_same(record.pid, record.start_ticks):
            path.unlink(missing_ok=True)


def _save(path: Path, record: _Record) -> None:
    part = path.with_suffix(".part")
    try:
        part.unlink(missing_ok=True)
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(asdict(record), file)
        part.rename(path)
    except OSError as error:
        raise _no_record(path, error.strerror or "") from error


def _load(path: Path) -> _Record | None:
    """The note about a process; None if there is none that can be trusted."""
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            return None
        if status.st_size > _MAX_RECORD_BYTES:
            return None
        values = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    names = _Record.__dataclass_fields__
    if not isinstance(values, dict) or set(values) != set(names):
        return None
    if not all(type(value) is int and 0 <= value < 1 << 64 for value in values.values()):
        return None
    return None if values["address"] % 8 else _Record(**values)


def _is_same(pid: int, start_ticks: int) -> bool:
    return _start_ticks(pid) == start_ticks


def _start_ticks(pid: int) -> int | None:
    """When a process began; None if there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        return int(text.rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None


def _program(pid: int) -> tuple[int, int] | None:
    with suppress(LeaktraceError):
        return program_of(pid)[1]
    return None
