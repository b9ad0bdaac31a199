"""Checks before tracing begins whether the kernel lets leaktrace read what tracing needs."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from leaktrace.capabilities import Capability, refused
from leaktrace.errors import TargetAccessError
from leaktrace.targets.mappings import read_mappings
from leaktrace.targets.memory import ProcessMemory

PTRACE_SCOPE = "/proc/sys/kernel/yama/ptrace_scope"
NO_ATTACH = 3  # Yama refuses every ptrace access, whatever the capabilities


def require_access(pid: int, *, to_memory: bool = True) -> None:
    """Return if the process can be examined. `to_memory`: also check its memory, because its code
    will be compared with its files.

    Raises TargetAccessError, which names the missing capability, and TargetError when the process
    has ended.
    """
    mappings = read_mappings(pid)
    try:
        os.stat(f"/proc/{pid}/root/")  # noqa: PTH116
    except PermissionError:
        raise refused(f"process {pid} can't be examined", Capability.SYS_PTRACE) from None
    except OSError:
        return  # it is ending: callers find out where that matters
    if not to_memory:
        return
    readable = next((m for m in mappings if m.is_file and m.permissions.startswith("r")), None)
    if readable is None:
        return
    try:
        with ProcessMemory(pid) as memory:
            memory.read(readable.start, 1)
    except PermissionError:
        raise _memory_refused(pid) from None
    except OSError:
        return


def _memory_refused(pid: int) -> TargetAccessError:
    scope = yama_scope()
    what = f"the memory of process {pid} can't be read"
    if scope >= NO_ATTACH:
        return TargetAccessError(
            f"{what}: kernel.yama.ptrace_scope is {scope}, which forbids it to every user",
            "use --faults, which reads no memory; or boot with a lower kernel.yama.ptrace_scope",
        )
    more = f"; or set kernel.yama.ptrace_scope, which is {scope}, to 0" if scope else ""
    return refused(what, Capability.SYS_PTRACE, more)


def yama_scope() -> int:
    """kernel.yama.ptrace_scope; 0 if the kernel has no Yama. From 1 on, reading the memory even of
    the user's own processes takes CAP_SYS_PTRACE (Documentation/admin-guide/LSM/Yama.rst)."""
    with suppress(OSError, ValueError):
        return int(Path(PTRACE_SCOPE).read_text())
    return 0
