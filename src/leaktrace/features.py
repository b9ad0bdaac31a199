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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from leaktrace import kernel, links
from leaktrace.compiler_child import find_bcc
from leaktrace.errors import EnvironmentUnfitError

AS_ROOT = "run as root: sudo leaktrace …"


class State(StrEnum):
    """What a probe found."""

    OK = "ok"
    MISSING = "missing"
    LIMITED = "limited"  # works, with less precision or at a higher cost
    UNKNOWN = "unknown"  # can't be told, e.g. because it takes root to ask


@dataclass(frozen=True)
class Feature:
    """One thing leaktrace uses, whether it is there, and what to do where it isn't."""

    name: str
    state: State
    detail: str = ""  # what was found
    advice: str = ""  # what the user can do, one line
    required: bool = False  # tracing a process can't work without it

    @property
    def blocks(self) -> bool:
        """Whether this alone keeps leaktrace from tracing a process."""
        return self.required and self.state is State.MISSING


@dataclass(frozen=True)
class Machine:
    """The machine as files below `root`. Only the one at "/" can be asked for more than files."""

    root: Path = Path("/")

    @property
    def is_running(self) -> bool:
        """Whether system calls asked now are answered by this very machine."""
        return self.root == Path("/")

    def path(self, path: str) -> Path:
        """`path`, absolute on the machine, where it lies for us."""
        return self.root / path.lstrip("/")

    def read(self, path: str) -> str | None:
        """The text of a file without surrounding white space; None where it can't be read."""
        try:
            return self.path(path).read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            return None

    def find(self, *patterns: str) -> Iterator[Path]:
        """The existing paths that match the patterns, pattern by pattern."""
        for pattern in patterns:
            yield from sorted(self.root.glob(pattern.lstrip("/")))


# --- privileges -----------------------------------------------------------------------------------

# include/uapi/linux/capability.h
CAPABILITIES = {
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_ADMIN": 21,
    "CAP_SYS_RESOURCE": 24,
    "CAP_PERFMON": 38,
    "CAP_BPF": 39,
}


def _status_field(machine: Machine, field: str) -> str | None:
    found = re.search(rf"^{field}:\s*(.+)$", machine.read("/proc/self/status") or "", re.MULTILINE)
    return found[1] if found else None


def effective_capabilities(machine: Machine) -> frozenset[str] | None:
    """Those of CAPABILITIES that this process has in effect (capabilities(7)); None: unreadable."""
    field = _status_field(machine, "CapEff")
    if field is None:
        return None
    mask = int(field, 16)
    return frozenset(name for name, bit in CAPABILITIES.items() if mask >> bit & 1)


def _root(machine: Machine) -> Feature:
    uids = (_status_field(machine, "Uid") or "").split()
    if len(uids) < 2:
        return Feature("root", State.UNKNOWN, "/proc/self/status can't be read")
    if uids[1] == "0":
        return Feature("root", State.OK, "effective user id 0")
    return Feature(
        "root",
        State.LIMITED,
        f"user id {uids[1]}: other users' processes are out of reach",
        AS_ROOT,
    )


def _capabilities(machine: Machine) -> Feature:
    name = "capabilities"
    held = effective_capabilities(machine)
    if held is None:
        return Feature(name, State.UNKNOWN, "/proc/self/status can't be read", required=True)
    shown = " ".join(sorted(held)) or "none of " + " ".join(sorted(CAPABILITIES))
    # capabilities(7): CAP_SYS_ADMIN still grants what CAP_BPF and CAP_PERFMON were split from.
    if "CAP_SYS_ADMIN" not in held and not held >= {"CAP_BPF", "CAP_PERFMON"}:
        return Feature(name, State.MISSING, shown, AS_ROOT, required=True)
    if "CAP_SYS_PTRACE" not in held:
        return Feature(
            name,
            State.LIMITED,
            f"{shown}; without CAP_SYS_PTRACE only your own processes can be read",
            "run as root, or add CAP_SYS_PTRACE",
            required=True,
        )
    if "CAP_SYS_RESOURCE" not in held:
        # Maps were charged to RLIMIT_MEMLOCK before Linux 5.11, which root may raise with it.
        shown += " (not CAP_SYS_RESOURCE)"
    return Feature(name, State.OK, shown, required=True)


def _keeper(machine: Machine) -> Feature:
    """Lowering oom_score_adj takes CAP_SYS_RESOURCE (proc_pid_oom_score_adj(5))."""
    name = "keeper of the probes"
    held = effective_capabilities(machine)
    if held is None:
        return Feature(name, State.UNKNOWN, "/proc/self/status can't be read")
    if "CAP_SYS_RESOURCE" in held:
        return Feature(name, State.OK, "is spared when memory runs out")
    return Feature(
        name,
        State.LIMITED,
        "may be ended when memory runs out, as any process",
        "add CAP_SYS_RESOURCE",
    )


def _user_namespace(machine: Machine) -> Feature:
    """In a user namespace every capability may be shown, and none counts for bpf(2)."""
    name = "user namespace"
    uid_map = machine.read("/proc/self/uid_map")
    if uid_map is None:
        return Feature(name, State.UNKNOWN, "/proc/self/uid_map can't be read")
    if uid_map.split() == ["0", "0", "4294967295"]:
        return Feature(name, State.OK, "the initial one")
    return Feature(
        name,
        State.LIMITED,
        "not the initial one: capabilities shown here may not count",
        "run outside the container, or in a privileged one without user namespace",
    )


def _lockdown(machine: Machine) -> Feature:
    """kernel_lockdown(7): "confidentiality" forbids reading memory from BPF, and probes."""
    modes = machine.read("/sys/kernel/security/lockdown")
    chosen = re.search(r"\[(\w+)\]", modes or "")
    if chosen is None or chosen[1] == "none":
        return Feature("lockdown", State.OK, "none", required=True)
    if chosen[1] == "confidentiality":
        return Feature(
            "lockdown",
            State.MISSING,
            "the kernel is locked down for confidentiality: no tracing",
            "boot with lockdown=integrity, or without Secure Boot",
            required=True,
        )
    return Feature("lockdown", State.OK, f"{chosen[1]}: tracing is allowed", required=True)


def _perf_event_paranoid(machine: Machine) -> Feature:
    name = "perf_event_paranoid"
    level = machine.read("/proc/sys/kernel/perf_event_paranoid")
    if level is None:
        return Feature(
            name, State.MISSING, "no perf events in this kernel", "boot a kernel with PERF_EVENTS"
        )
    held = effective_capabilities(machine) or frozenset()
    if held & {"CAP_SYS_ADMIN", "CAP_PERFMON"}:
        return Feature(name, State.OK, f"{level}, which your capabilities override")
    return Feature(name, State.LIMITED, f"{level}: applies to you", AS_ROOT)


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
        library = kernel.libbpf()
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
        kernel.libbpf().bpf_prog_load(
            kernel.PROG_TYPE_KPROBE, None, b"GPL", _EXIT_0, ctypes.c_size_t(len(_EXIT_0) // 8), None
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
    library = kernel.libbpf()
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
    probe = kernel.libbpf().libbpf_probe_bpf_prog_type
    return int(probe(kernel.PROG_TYPE_RAW_TRACEPOINT, None)) == 1


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
    refusal = f"a probe program doesn't load: {os.strerror(code)}"
    if code not in (errno.EPERM, errno.EACCES):
        advice = "boot a kernel with CONFIG_BPF_SYSCALL and CONFIG_BPF_EVENTS"
    elif _capabilities(machine).state is State.MISSING:
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
        kernel.has_attach_cookie,
        "calls are followed by points within functions: no return address is touched",
        "calls are followed by return probes, which some targets don't survive",
    ),
    _Trial(
        "BPF ring buffer",
        kernel.has_ring_buffer,
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
        kernel.allocates_map_memory_on_demand,
        "maps take memory as they fill",
        "maps take all their memory at the start: see --max-allocs",
    ),
)


# --- all of it ------------------------------------------------------------------------------------

_PROBES: tuple[Callable[[Machine], Feature], ...] = (
    _kernel,
    _root,
    _capabilities,
    _keeper,
    _user_namespace,
    _lockdown,
    _perf_event_paranoid,
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
    for probe in (_capabilities, _lockdown, _uprobes, _libbpf, _bcc, _bpf_system_call):
        feature = probe(machine)
        if feature.blocks:
            raise EnvironmentUnfitError(_BLOCKED.get(feature.name, feature.detail), feature.advice)


def require_kernel_mode(machine: Machine | None = None) -> None:
    """Return if the kernel can be traced on this machine.

    Raises EnvironmentUnfitError that names the first thing in the way.
    """
    machine = machine or Machine()
    for probe in (_capabilities, _lockdown, _libbpf, _bcc, _bpf_system_call):
        feature = probe(machine)
        if feature.blocks:
            raise EnvironmentUnfitError(_BLOCKED.get(feature.name, feature.detail), feature.advice)


_BLOCKED = {
    "capabilities": "tracing takes root, or the capabilities CAP_BPF and CAP_PERFMON",
    "uprobes": "this kernel has no uprobes",
    "libbpf": "libbpf is not installed",
    "bcc": "the BPF compiler collection (bcc) for Python is not installed",
}
