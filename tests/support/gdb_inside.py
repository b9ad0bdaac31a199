"""Runs inside gdb, attached to a process: continues it to its next stop, and prints all its stacks.

    LEAKTRACE_GDB_PIPES=COMMANDS,ANSWERS gdb -nx -batch -p PID -x gdb_inside.py

Both pipes are file descriptors that gdb inherits. A line on the first continues the process; its
end makes gdb detach. Every answer is a line of JSON: {} at the beginning, then for each stop
{"tid": [pc, …]} with all physical frames of each thread, innermost first, or null when the process
has ended.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
from pathlib import Path
from typing import Any

gdb: Any = importlib.import_module("gdb")  # gdb's own, there only inside of it

SETTINGS = (
    "confirm off",
    "pagination off",
    "debuginfod enabled off",
    "backtrace past-main on",
    "backtrace past-entry on",
    "backtrace limit 1000",
)
# What isn't on the stack: gdb infers these frames from debug information.
VIRTUAL = (gdb.INLINE_FRAME, gdb.TAILCALL_FRAME)


def leave_trampoline(pid: int) -> None:
    """Where return probes are a system call (Linux 6.11), the process is stopped on its way back
    from that: the last four instructions of the trampoline, up to its `ret`, are still to come."""
    with Path(f"/proc/{pid}/maps").open() as maps:
        pages = [line.split("-")[0] for line in maps if line.endswith("[uprobes]\n")]
    while pages and gdb.newest_frame().pc() & -4096 == int(pages[0], 16):
        gdb.execute("stepi", to_string=True)


def stack_of(thread: Any, pid: int) -> list[int]:
    thread.switch()
    leave_trampoline(pid)
    frame = gdb.newest_frame()
    pcs = []
    while frame is not None:
        if frame.type() not in VIRTUAL:
            pcs.append(frame.pc())
        frame = frame.older()
    return pcs


def main() -> None:
    commands_fd, answers_fd = map(int, os.environ["LEAKTRACE_GDB_PIPES"].split(","))
    for setting in SETTINGS:
        with contextlib.suppress(gdb.error):  # unknown to older versions
            gdb.execute(f"set {setting}", to_string=True)
    gdb.execute("handle all nostop noprint pass", to_string=True)
    gdb.execute("handle SIGSTOP stop print nopass", to_string=True)
    with os.fdopen(commands_fd) as commands, os.fdopen(answers_fd, "w", buffering=1) as answers:
        answers.write("{}\n")
        for _ in commands:
            gdb.execute("continue", to_string=True)
            process = gdb.selected_inferior()
            stacks = None
            if process.pid:
                gdb.execute("set scheduler-locking on")
                stacks = {t.ptid[1]: stack_of(t, process.pid) for t in process.threads()}
                gdb.execute("set scheduler-locking off")
            answers.write(json.dumps(stacks) + "\n")


main()
