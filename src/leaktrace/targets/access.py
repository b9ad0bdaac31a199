"""Whether a process may be looked at: what tracing reads of it is tried before it begins."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from leaktrace.capabilities import Capability, refused
from leaktrace.errors import TargetAccessError
from leaktrace.targets.mappings import read_mappings
from leaktrace.targets.memory import ProcessMemory

PTRACE_SCOPE = "/proc/sys/kernel/yama/ptrace_scope"
_BEYOND_CAPABILITIES = 3  # Yama: nobody attaches to anything


def require_access(pid: int, *, to_memory: bool = True) -> None:
    """Return if the process can be looked at. `to_memory`: its code will be compared with files.

    Raises TargetAccessError that names the capability which is missing, TargetError when the
    process is gone.
    """
    mappings = read_mappings(pid)
    try:
        os.stat(f"/proc/{pid}/root/")  # noqa: PTH116
    except PermissionError:
        raise refused(f"process {pid} can't be looked at", Capability.SYS_PTRACE) from None
    except OSError:
        return  # it ends: to be told where that matters
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
    if scope >= _BEYOND_CAPABILITIES:
        return TargetAccessError(
            f"{what}: kernel.yama.ptrace_scope is {scope}, which forbids it to everybody",
            "try --faults, which reads none; or boot with a smaller kernel.yama.ptrace_scope",
        )
    more = f"; kernel.yama.ptrace_scope is {scope}, 0 would do, too" if scope else ""
    return refused(what, Capability.SYS_PTRACE, more)


def yama_scope() -> int:
    """kernel.yama.ptrace_scope: from 1 on, to read memory takes CAP_SYS_PTRACE even of the user's
    own processes (Documentation/admin-guide/LSM/Yama.rst); 0 where there is no Yama."""
    with suppress(OSError, ValueError):
        return int(Path(PTRACE_SCOPE).read_text())
    return 0
