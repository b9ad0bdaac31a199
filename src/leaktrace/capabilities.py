"""The capabilities that tracing needs (capabilities(7)), and trials of which the kernel grants.

The bits in /proc/self/status don't answer that: in a user namespace all of them may be set although
the kernel ignores them, and root may lack any. So each capability has a trial: an operation that
the kernel refuses without this capability, that needs nothing else, and that leaves no trace.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Callable, Sequence
from enum import StrEnum
from functools import cache
from pathlib import Path

from leaktrace.bpf import syscalls
from leaktrace.bpf.links import has_uprobe_multi, uprobe_event_type
from leaktrace.bpf.probe_calls import PERF_ATTR_BYTES, perf_event_open
from leaktrace.errors import AS_ROOT, EnvironmentUnfitError, TargetAccessError


class Capability(StrEnum):
    """The capabilities that leaktrace uses."""

    BPF = "CAP_BPF"
    PERFMON = "CAP_PERFMON"
    SYS_PTRACE = "CAP_SYS_PTRACE"
    CHECKPOINT_RESTORE = "CAP_CHECKPOINT_RESTORE"
    DAC_READ_SEARCH = "CAP_DAC_READ_SEARCH"
    SYS_ADMIN = "CAP_SYS_ADMIN"


# What each of them is needed for.
PURPOSES = {
    Capability.BPF: "loading programs into the kernel",
    Capability.PERFMON: "BPF programs that read memory",
    Capability.SYS_PTRACE: "processes of other users, and non-dumpable processes",
    Capability.CHECKPOINT_RESTORE: "mapped files that were deleted, replaced or are in an overlay",
    Capability.DAC_READ_SEARCH: "mapped files that only other users may read",
    Capability.SYS_ADMIN: "probes as perf events",
}

_LRU_HASH = 9  # enum bpf_map_type
_PR_SET_DUMPABLE = 4  # prctl(2)
# struct perf_event_attr: type and config of an event that never occurs; bits at its byte 40.
_SOFTWARE, _DUMMY = 1, 9
_EXCLUDE_KERNEL, _NAMESPACES = 1 << 5, 1 << 28


def _grants_bpf() -> bool | None:
    """An LRU map needs it (lru_map_alloc_check, kernel/bpf/hashtab.c; map_create since 6.5),
    regardless of kernel.unprivileged_bpf_disabled."""
    try:
        library = syscalls.libbpf()
    except EnvironmentUnfitError:
        return None
    descriptor = int(library.bpf_map_create(_LRU_HASH, b"leaktrace_try", 8, 8, 1, None))
    if descriptor >= 0:
        os.close(descriptor)
    return descriptor != -errno.EPERM


def _grants_perfmon() -> bool | None:
    """An event that records namespaces needs it, regardless of kernel.perf_event_paranoid
    (perf_event_open, kernel/events/core.c)."""
    attributes = ctypes.create_string_buffer(PERF_ATTR_BYTES)
    struct.pack_into("<IIQ", attributes, 0, _SOFTWARE, PERF_ATTR_BYTES, _DUMMY)
    struct.pack_into("<Q", attributes, 40, _EXCLUDE_KERNEL | _NAMESPACES)
    return _opens(attributes)


def _grants_sys_admin() -> bool | None:
    """The kernel checks the privilege for a uprobe event before it refuses one without a path.
    From 5.8 on CAP_PERFMON was enough; "perf: Revert to requiring CAP_SYS_ADMIN for uprobes"
    (6.16, and stable updates) undid that."""
    try:
        kind, _ = uprobe_event_type()
    except EnvironmentUnfitError:
        return None
    attributes = ctypes.create_string_buffer(PERF_ATTR_BYTES)
    struct.pack_into("<II", attributes, 0, kind, PERF_ATTR_BYTES)
    struct.pack_into("<Q", attributes, 40, _EXCLUDE_KERNEL)
    return _opens(attributes)


def _opens(attributes: ctypes.Array[ctypes.c_char]) -> bool:
    """Whether the event opens, or is refused for a reason other than a missing privilege."""
    event = perf_event_open(attributes, pid=0, cpu=-1)
    if event >= 0:
        os.close(event)
    return event not in (-errno.EACCES, -errno.EPERM)


def _grants_sys_ptrace() -> bool | None:
    """Without it, a child that has made itself undumpable is out of reach (ptrace(2), "Ptrace
    access mode checking")."""
    libc = ctypes.CDLL(None)
    wait, gate = os.pipe()
    ready, done = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(gate)
            libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
            os.write(done, b"x")
            os.read(wait, 1)
        finally:
            os._exit(0)
    try:
        os.close(done)
        os.read(ready, 1)
        os.stat("/proc/self/")  # raises where /proc isn't mounted  # noqa: PTH116
        try:
            return _succeeds(lambda: os.stat(f"/proc/{child}/root/"))  # noqa: PTH116
        except FileNotFoundError:  # hidden: /proc is mounted with hidepid=2 (proc(5))
            return False
    finally:
        for descriptor in (gate, wait, ready):
            os.close(descriptor)
        os.waitpid(child, 0)


def _grants_checkpoint_restore() -> bool | None:
    """Without it the links in map_files can't be followed (proc_map_files_get_link,
    fs/proc/base.c)."""
    line = Path("/proc/self/maps").read_text(errors="replace").split("\n", 1)[0]
    start, end = (int(word, 16) for word in line.split()[0].split("-"))
    path = f"/proc/self/map_files/{start:x}-{end:x}"
    return _succeeds(lambda: os.close(os.open(path, os.O_PATH | os.O_CLOEXEC)))


def _grants_dac_read_search() -> bool | None:
    """It allows opening a file without any permission bits, which even the owner may not read."""
    file = os.memfd_create("leaktrace try", os.MFD_CLOEXEC)
    try:
        os.fchmod(file, 0)
        path = f"/proc/self/fd/{file}"
        return _succeeds(lambda: os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC)))
    finally:
        os.close(file)


def _succeeds(action: Callable[[], object]) -> bool:
    try:
        action()
    except PermissionError:
        return False
    return True


_TRIALS: dict[Capability, Callable[[], bool | None]] = {
    Capability.BPF: _grants_bpf,
    Capability.PERFMON: _grants_perfmon,
    Capability.SYS_PTRACE: _grants_sys_ptrace,
    Capability.CHECKPOINT_RESTORE: _grants_checkpoint_restore,
    Capability.DAC_READ_SEARCH: _grants_dac_read_search,
    Capability.SYS_ADMIN: _grants_sys_admin,
}


@cache
def is_granted(capability: Capability) -> bool | None:
    """Whether the kernel allows what needs this capability; None where that can't be tested."""
    try:
        return _TRIALS[capability]()
    except OSError:
        return None


def missing_for_probes() -> list[Capability]:
    """Which capabilities are missing that tracing any process needs. CAP_SYS_ADMIN can be tested
    only with the other two."""
    missing = [one for one in (Capability.BPF, Capability.PERFMON) if is_granted(one) is False]
    # Kernels that have links for uprobes don't need perf events.
    if not missing and not has_uprobe_multi() and is_granted(Capability.SYS_ADMIN) is False:
        missing.append(Capability.SYS_ADMIN)
    return missing


def as_root_or_grant(capability: Capability) -> str:
    """The hint where a capability is missing."""
    return f"{AS_ROOT}; or grant {capability} (README, 'Without root')"


def refused(what: str, capability: Capability, more: str = "") -> TargetAccessError:
    """The error for `what`, which requires a capability and was refused. It says whether the
    capability is missing, is granted (so something else refuses), or could not be tried. `more` is
    appended to the hint."""
    granted = is_granted(capability)
    hint = as_root_or_grant(capability)
    if granted is None:
        message = f"{what}; {capability} is needed, and could not be tested"
    elif granted:
        message = f"{what}, although {capability} is granted"
        hint = (
            "a security module or another user namespace protects it: run leaktrace in the "
            "process's user namespace, or check the security module's log"
        )
    else:
        message = f"{what}: {capability} is missing"
    return TargetAccessError(message, f"{hint}{more}", capability)


def enumerate_missing(missing: Sequence[Capability]) -> str:
    """Which capabilities are missing, and what they are needed for."""
    return "missing: " + ", ".join(f"{one} (for {PURPOSES[one]})" for one in missing)
