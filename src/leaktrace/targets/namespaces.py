"""The pid namespace that leaktrace is in (pid_namespaces(7))."""

from __future__ import annotations

import os
from functools import cache

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
