"""Starts what a trial needs, and ends it, with all that it has started, on every path."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

START_S = 60
END_S = 30


class TrialError(Exception):
    """A server, its load or leaktrace did not do what it should."""


def descendants(pid: int) -> list[int]:
    """Its children, and theirs."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, task.read_text().split()):
                found += [child, *descendants(child)]
    return found


@contextmanager
def running(
    argv: Sequence[str | Path], log: Path, *, env: Mapping[str, str] | None = None, user: str = ""
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is ended at the end: SIGTERM, then SIGKILL for it and what it started."""
    command = ["setpriv", "--pdeathsig", "KILL"]
    if user:
        entry = pwd.getpwnam(user)
        command += [f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups"]
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*command, *(str(word) for word in argv)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
    try:
        yield process
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    started = descendants(process.pid)
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        started += descendants(process.pid)
        process.kill()
        process.wait()
    for pid in started:  # those that outlive it
        with contextlib.suppress(ProcessLookupError):
            if os.getsid(pid) == process.pid or _has_left(pid):
                os.kill(pid, signal.SIGKILL)


def _has_left(pid: int) -> bool:
    """Whether its parent is gone, so that it is one that we have to end."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1] == "1"
    return False


def run_to_end(argv: Sequence[str | Path], log: Path, *, user: str = "") -> None:
    """Raises TrialError if it fails."""
    with running(argv, log, user=user) as process:
        try:
            status = process.wait(START_S)
        except subprocess.TimeoutExpired:
            raise TrialError(f"{argv[0]} takes more than {START_S} s") from None
    if status != 0:
        raise TrialError(f"{argv[0]} ended with {status}: {last_line(log)}")


def await_until(happened: Callable[[], bool], server: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a server is ready. Raises TrialError if it ends, or takes too long."""
    deadline = time.monotonic() + START_S
    while not happened():
        if server.poll() is not None or time.monotonic() > deadline:
            raise TrialError(f"the server does not start: {last_line(log)}")
        time.sleep(0.1)


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        return True
    return False


def last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1] if lines else "no message"
