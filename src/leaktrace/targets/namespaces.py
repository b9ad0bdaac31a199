"""The pid namespace that leaktrace is in (pid_namespaces(7))."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from itertools import islice
from pathlib import Path

_INITIAL_PID_NAMESPACE = 0xEFFFFFFC  # PROC_PID_INIT_INO, include/linux/proc_ns.h


@cache
def pids_are_global() -> bool:
    """Whether leaktrace and the kernel side know a process by the same id. In another pid
    namespace, ids differ."""
    try:
        namespace = os.stat("/proc/self/ns/pid").st_ino  # noqa: PTH116
    except OSError:
        return True  # a kernel without them
    return namespace == _INITIAL_PID_NAMESPACE


def own_thread_ids(pid: int, tids: Sequence[int], most: int) -> dict[int, int]:
    """What a process itself calls some of its threads, in its own namespace (NSpid,
    proc_pid_status(5)): the first thread, and others until `most` are known."""
    ordered = sorted(tids, key=lambda one: one != pid)
    found = ((one, _own_thread_id(pid, one)) for one in ordered[: 2 * most])
    return dict(islice(((one, own) for one, own in found if own), most))


def _own_thread_id(pid: int, tid: int) -> int:
    """0 if it has ended."""
    try:
        text = Path(f"/proc/{pid}/task/{tid}/status").read_text("utf-8", "replace")
    except OSError:
        return 0
    fields = dict(line.partition(":")[::2] for line in text.splitlines())
    try:
        return int(fields.get("NSpid", str(tid)).split()[-1])
    except (ValueError, IndexError):
        return 0
