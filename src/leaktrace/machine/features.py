"""What this machine offers: privileges, kernel features, the packages leaktrace stands on.

Features are tested for, never concluded from a kernel's version. Whatever can be read from a file
is read through a `Machine`, so that a test can describe another machine as a directory. What only
the running kernel can answer is asked with a trial: a system call that has no lasting effect.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import re
from collections.abc import Callable
from dataclasses import dataclass

from leaktrace.bpf import links, support, syscalls
from leaktrace.bpf.compiler_child import find_bcc
from leaktrace.errors import EnvironmentUnfitError, reason
from leaktrace.machine import privileges
from leaktrace.machine.machine import AS_ROOT, Feature, Machine, State

__all__ = [
    "Feature",
    "Machine",
    "State",
    "all_features",
    "install_hint",
    "require_kernel_mode",
    "require_user_mode",
]

# --- the kernel, from files -----------------------------------------------------------------------


def _kernel(machine: Machine) -> Feature:
    release = machine.read("/proc/sys/kernel/osrelease")
    if release is None:
        return Feature("kernel", State.UNKNOWN, "/proc/sys/kernel/osrelease can't be read")
    architecture = machine.read("/proc/sys/kernel/arch")  # since Linux 6.1
    if architecture is None and machine.is_running:
        architecture = platform.machine()
    return Feature("kernel", State.OK, f"{release} {architecture or ''}".strip())


def _probe_pmu(machine: Machine, name: str, advice: str, *, required: bool) -> Feature:
    pmu = name.removesuffix("s")
    number = machine.read(f"/sys/bus/event_source/devices/{pmu}/type")
    if number is None:
        return Feature(
            name, State.MISSING, f"the kernel has no {pmu} event source", advice, required
        )
    return Feature(name, State.OK, f"perf event source {number}", required=required)


def _uprobes(machine: Machine) -> Feature:
    return _probe_pmu(
        machine, "uprobes", "boot a kernel with CONFIG_UPROBE_EVENTS (4.17 or later)", required=True
    )


def _kprobes(machine: Machine) -> Feature:
    return _probe_pmu(
        machine, "kprobes", "kernel allocations: only what tracepoints show", required=False
    )


def _tracefs(machine: Machine) -> Feature:
    for line in (machine.read("/proc/self/mounts") or "").splitlines():
        _, point, kind, *_ = line.split(" ")
        if kind == "tracefs":
            return Feature("tracefs", State.OK, f"mounted on {point}")
    return Feature(
        "tracefs",
        State.LIMITED,
        "not mounted; only tracepoints by name need it",
        "mount -t tracefs tracefs /sys/kernel/tracing",
    )


def _btf(machine: Machine) -> Feature:
    path = "/sys/kernel/btf/vmlinux"
    try:
        size_bytes = machine.path(path).stat().st_size
    except OSError:
        return Feature(
            "BTF",
            State.LIMITED,
            f"no {path}",
            "nothing to do: leaktrace works without the kernel's type information",
        )
    return Feature("BTF", State.OK, f"{path}, {size_bytes:,} bytes")


# --- packages -------------------------------------------------------------------------------------


# Package names by /etc/os-release's ID or ID_LIKE: bcc's Python package, libbpf, the installer.
_PACKAGES = {
    "debian": ("python3-bpfcc", "libbpf1", "apt-get install"),
    "ubuntu": ("python3-bpfcc", "libbpf1", "apt-get install"),
    "fedora": ("python3-bcc", "libbpf", "dnf install"),
    "rhel": ("python3-bcc", "libbpf", "dnf install"),
    "arch": ("python-bcc", "libbpf", "pacman -S"),
    "suse": ("python3-bcc", "libbpf1", "zypper install"),
    "alpine": ("py3-bcc", "libbpf", "apk add"),
}


def install_hint(machine: Machine, what: str) -> str:
    """How to install `what` ("bcc" or "libbpf") on this machine's distribution (os-release(5))."""
    text = machine.read("/etc/os-release") or machine.read("/usr/lib/os-release") or ""
    fields = dict(re.findall(r"""^(\w+)=["']?(.*?)["']?$""", text, re.MULTILINE))
    index = ("bcc", "libbpf").index(what)
    for family in [fields.get("ID", ""), *fields.get("ID_LIKE", "").split()]:
        if family in _PACKAGES:
            return f"install it: {_PACKAGES[family][2]} {_PACKAGES[family][index]}"
    return {
        "bcc": "install bcc's Python package from your distribution (PyPI's bcc is unrelated)",
        "libbpf": "install libbpf 1.x from your distribution",
    }[what]


def _bcc(machine: Machine) -> Feature:
    """Looked up, not imported: that would map LLVM into this process."""
    folder = find_bcc(machine.root)
    if folder is None:
        hint = install_hint(machine, "bcc")
        return Feature("bcc", State.MISSING, "its Python package isn't installed", hint, True)
    try:
        text = (folder / "version.py").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    version = re.search(r"""__version__\s*=\s*['"]([^'"]+)['"]""", text)
    number = version[1] if version else "unknown version"
    return Feature("bcc", State.OK, f"{number} in {folder}", required=True)


def _libbpf(machine: Machine) -> Feature:
    if machine.is_running:
        detail = _loaded_libbpf()
    else:
        places = ("/usr/lib*/libbpf.so.1", "/usr/lib/*/libbpf.so.1", "/lib/*/libbpf.so.1")
        detail = next((str(path) for path in machine.find(*places)), None)
    if detail is None:
        hint = install_hint(machine, "libbpf")
        return Feature("libbpf", State.MISSING, "its library isn't installed", hint, True)
    return Feature("libbpf", State.OK, detail, required=True)


def _loaded_libbpf() -> str | None:
    """The version of the libbpf that this process uses; None where there is none."""
    try:
        library = syscalls.libbpf()
    except EnvironmentUnfitError:
        return None
    version = library.libbpf_version_string  # libbpf 0.6 and later
    version.restype = ctypes.c_char_p
    return str(version().decode())


# --- the running kernel, by trial -----------------------------------------------------------------

_BPF_MAP_TYPE_HASH = 1
_EXIT_0 = bytes.fromhex("b700000000000000 9500000000000000")  # r0 = 0; exit


def bpf_errno() -> int:
    """Load the smallest probe program and unload it: 0, or the errno of bpf(2).

    Raises EnvironmentUnfitError without libbpf.
    """
    fd = int(
        syscalls.libbpf().bpf_prog_load(
            syscalls.PROG_TYPE_KPROBE,
            None,
            b"GPL",
            _EXIT_0,
            ctypes.c_size_t(len(_EXIT_0) // 8),
            None,
        )
    )
    if fd < 0:
        return -fd
    os.close(fd)
    return 0


def has_batch_operations() -> bool:
    """BPF_MAP_LOOKUP_BATCH of hash maps (Linux 5.6), tried on an empty one.

    Raises EnvironmentUnfitError without libbpf.
    """
    library = syscalls.libbpf()
    fd = int(library.bpf_map_create(_BPF_MAP_TYPE_HASH, b"leaktrace_try", 8, 8, 1, None))
    if fd < 0:
        return False
    position, key, value = (ctypes.c_uint64() for _ in range(3))
    count = ctypes.c_uint32(1)
    places = [ctypes.byref(place) for place in (position, key, value, count)]
    try:
        result = int(library.bpf_map_lookup_batch(fd, None, *places, None))
    finally:
        os.close(fd)
    return result == -errno.ENOENT  # the end of the map


def has_raw_tracepoints() -> bool:
    """BPF_PROG_TYPE_RAW_TRACEPOINT (Linux 4.17).

    Raises EnvironmentUnfitError without libbpf.
    """
    probe = syscalls.libbpf().libbpf_probe_bpf_prog_type
    return int(probe(syscalls.PROG_TYPE_RAW_TRACEPOINT, None)) == 1


def _bpf_system_call(machine: Machine) -> Feature:
    name = "bpf(2)"
    if not machine.is_running:
        return Feature(name, State.UNKNOWN, "only the machine itself can tell", required=True)
    try:
        code = bpf_errno()
    except EnvironmentUnfitError:
        return Feature(name, State.UNKNOWN, "it takes libbpf to ask", required=True)
    if code == 0:
        return Feature(name, State.OK, "a probe program loads", required=True)
    refusal = f"a probe program doesn't load: {reason(code)}"
    if code not in (errno.EPERM, errno.EACCES):
        advice = "boot a kernel with CONFIG_BPF_SYSCALL and CONFIG_BPF_EVENTS"
    elif privileges.capabilities(machine).state is State.MISSING:
        advice = AS_ROOT
    else:
        advice = "run outside the container, or in one with --privileged"
    return Feature(name, State.MISSING, refusal, advice, required=True)


@dataclass(frozen=True)
class _Trial:
    """A feature that only the running kernel can tell, and what its absence means."""

    name: str
    ask: Callable[[], bool]
    present: str
    absent: str

    def __call__(self, machine: Machine) -> Feature:
        if not machine.is_running:
            return Feature(self.name, State.UNKNOWN, "only the machine itself can tell")
        if _bpf_system_call(machine).state is not State.OK:
            return Feature(self.name, State.UNKNOWN, "it takes a working bpf(2) to ask")
        if self.ask():
            return Feature(self.name, State.OK, self.present)
        return Feature(self.name, State.LIMITED, self.absent, "a newer kernel has it")


_TRIALS = (
    _Trial(
        "uprobe links (multi)",
        links.has_uprobe_multi,
        "an object's probes attach at once",
        "probes attach and detach one by one: slow",
    ),
    _Trial(
        "attach cookies",
        support.has_attach_cookie,
        "calls are followed by points within functions: no return address is touched",
        "calls are followed by return probes, which some targets don't survive",
    ),
    _Trial(
        "BPF ring buffer",
        support.has_ring_buffer,
        "events arrive in order",
        "perf buffers: events of different CPUs may change places",
    ),
    _Trial(
        "batch map operations",
        has_batch_operations,
        "maps are read in bulk",
        "maps are read entry by entry, slowly",
    ),
    _Trial(
        "raw tracepoints",
        has_raw_tracepoints,
        "exec and exit of the target are seen",
        "exec of the target goes unnoticed",
    ),
    _Trial(
        "on-demand map memory",
        support.allocates_map_memory_on_demand,
        "maps take memory as they fill",
        "maps take all their memory at the start: see --max-allocs",
    ),
)


# --- all of it ------------------------------------------------------------------------------------

_PROBES: tuple[Callable[[Machine], Feature], ...] = (
    _kernel,
    privileges.root,
    privileges.capabilities,
    *privileges.CAPABILITY_TRIALS,
    privileges.keeper,
    privileges.user_namespace,
    privileges.lockdown,
    privileges.perf_event_paranoid,
    privileges.yama,
    _libbpf,
    _bcc,
    _uprobes,
    _bpf_system_call,
    *_TRIALS,
    _kprobes,
    _tracefs,
    _btf,
)


def all_features(machine: Machine | None = None) -> tuple[Feature, ...]:
    """Every feature of the machine (this one unless told), in the order doctor shows them."""
    machine = machine or Machine()
    return tuple(probe(machine) for probe in _PROBES)


def require_user_mode(machine: Machine | None = None) -> None:
    """Return if a process can be traced on this machine.

    Raises EnvironmentUnfitError that names the first thing in the way. Takes a millisecond: only
    what tracing can't do without is asked.
    """
    machine = machine or Machine()
    for probe in (
        privileges.capabilities,
        privileges.lockdown,
        _uprobes,
        _libbpf,
        _bcc,
        _bpf_system_call,
    ):
        feature = probe(machine)
        if feature.blocks:
            raise EnvironmentUnfitError(_BLOCKED.get(feature.name, feature.detail), feature.advice)


def require_kernel_mode(machine: Machine | None = None) -> None:
    """Return if the kernel can be traced on this machine.

    Raises EnvironmentUnfitError that names the first thing in the way.
    """
    machine = machine or Machine()
    for probe in (privileges.capabilities, privileges.lockdown, _libbpf, _bcc, _bpf_system_call):
        feature = probe(machine)
        if feature.blocks:
            raise EnvironmentUnfitError(_BLOCKED.get(feature.name, feature.detail), feature.advice)


_BLOCKED = {
    "uprobes": "this kernel has no uprobes",
    "libbpf": "libbpf is not installed",
    "bcc": "the BPF compiler collection (bcc) for Python is not installed",
}
