"""Which system calls return EINTR after a stop, and which go on: what the kernel does, and what
docs/safety.md says."""

from __future__ import annotations

import errno
import platform
import re
from pathlib import Path

import pytest
from harness.compiling import Compiler
from harness.families import last_report
from harness.processes import await_true
from harness.target import Target
from harness.tracer import NEVER, ONE_REPORT, REPOSITORY, Tracer

pytestmark = [
    pytest.mark.usefixtures("require_bpf"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="registers are known on x86-64 only"),
]

# What docs/safety.md calls the calls of tests/programs/stopped_calls.c, if it is another name.
NAMES = {
    "pselect": "select",
    "futex_until": "futex",
    "futex_pi": "futex",
    "read_pipe": "read",
    "read_eventfd": "read",
    "read_timerfd": "read",
    "read_signalfd": "read",
    "read_inotify": "read",
    "read_terminal": "read",
    "write_pipe": "write",
    "open_fifo": "open",
    "recv_udp": "recv",
    "accept_tcp": "accept",
    "mq_timedreceive": "mq_receive",
    "wait4": "waitpid",
    "fcntl_lock": "fcntl",
}
RESTART_SYSCALL = "219"  # what goes on by restart_syscall(2), with the time that is left
OF_SOCKETS = ("read", "recv", "send", "accept", "connect")


def documented() -> tuple[set[str], set[str]]:
    """The calls that return EINTR, and those that go on."""
    text = (REPOSITORY / "docs/safety.md").read_text(encoding="utf-8")
    match = re.search(r"\* \*\*EINTR, once\*\*(.*?)\n  All others.*?:(.*?) go on", text, re.S)
    assert match is not None
    interrupted, restarted = (set(re.findall(r"`(\w+)`", part)) for part in match.groups())
    return interrupted, restarted


def name_of(call: str) -> tuple[str, bool]:
    """As the page says, and whether it is that of a socket with a timeout."""
    short = call.removesuffix("_timeout")
    name = NAMES.get(short, short)
    return name, short != call and name in OF_SOCKETS


def returned(target: Target) -> dict[str, int]:
    """By call: its error."""
    at = len(target.seen)
    target.do()
    lines = [line.split() for line in target.seen[at:] if line.startswith("returned ")]
    return {name: int(number) for _, name, number in lines}


def test_the_list_of_the_docs(compiled: Compiler) -> None:
    with Target([compiled("stopped_calls.c")]) as target:
        target.await_ready()
        calls = [line.split()[1:] for line in target.seen if line.startswith("call ")]

        def is_waiting(tid: str, number: str) -> bool:
            path = Path(f"/proc/{target.pid}/task/{tid}/syscall")
            return path.read_text().split()[0] in (number, RESTART_SYSCALL)

        # A kernel that doesn't know a call, or doesn't permit it, has answered already.
        unknown: dict[str, int] = {}

        def all_wait() -> bool:
            unknown.update(returned(target))
            return all(name in unknown or is_waiting(tid, number) for name, tid, number in calls)

        await_true(all_wait)
        assert set(unknown.values()) <= {errno.ENOSYS, errno.EPERM}, unknown
        with Tracer("-p", str(target.pid), "--lost", "--stop", *ONE_REPORT, NEVER) as tracer:
            tracer.await_armed()
            assert returned(target) == unknown
            report = last_report(tracer)
        assert report.raw["reach"]["pause_ms"] is not None

        def all_have_settled() -> bool:
            now = returned(target)
            return all(name in now or is_waiting(tid, number) for name, tid, number in calls)

        await_true(all_have_settled)
        interrupted = returned(target)
        assert target.end() == 0
    names = {name for name, *_ in calls}
    assert {interrupted[name] for name in interrupted.keys() - unknown.keys()} == {errno.EINTR}
    by_page, goes_on = documented()
    for name in names - unknown.keys():
        word, has_timeout = name_of(name)
        is_documented = has_timeout or (word in by_page and word not in OF_SOCKETS)
        assert (name in interrupted) == is_documented, name
        assert word in (by_page if is_documented else goes_on), name
    tried = {name_of(name)[0] for name in names | set(NAMES)}
    assert by_page | goes_on <= tried  # nothing is said of what was not tried
