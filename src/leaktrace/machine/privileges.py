"""What the kernel permits this process: its user, its capabilities, what restricts them."""

from __future__ import annotations

import re
from collections.abc import Callable

from leaktrace.capabilities import (
    PURPOSES,
    Capability,
    as_root_or_grant,
    enumerate_missing,
    is_granted,
    missing_for_probes,
)
from leaktrace.errors import AS_ROOT
from leaktrace.machine.machine import ONLY_LOCALLY, Feature, Machine, State
from leaktrace.targets.access import PTRACE_SCOPE

_ALWAYS_NEEDED = (Capability.BPF, Capability.PERFMON)
# include/uapi/linux/capability.h
CAPABILITIES = {
    "CAP_DAC_READ_SEARCH": 2,
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_ADMIN": 21,
    "CAP_SYS_RESOURCE": 24,
    "CAP_PERFMON": 38,
    "CAP_BPF": 39,
    "CAP_CHECKPOINT_RESTORE": 40,
}


def _status_field(machine: Machine, field: str) -> str | None:
    found = re.search(rf"^{field}:\s*(.+)$", machine.read("/proc/self/status") or "", re.MULTILINE)
    return found[1] if found else None


def effective_capabilities(machine: Machine) -> frozenset[str] | None:
    """Those of CAPABILITIES that this process has in effect (capabilities(7)); None: unknown."""
    field = _status_field(machine, "CapEff")
    if field is None:
        return None
    mask = int(field, 16)
    return frozenset(name for name, bit in CAPABILITIES.items() if mask >> bit & 1)


def root(machine: Machine) -> Feature:
    uids = (_status_field(machine, "Uid") or "").split()
    if len(uids) < 2:
        return Feature("root", State.UNKNOWN, "/proc/self/status can't be read")
    if uids[1] == "0":
        return Feature("root", State.OK, "effective user id 0")
    return Feature(
        "root",
        State.LIMITED,
        f"user id {uids[1]}: what can be traced depends on the capabilities",
        AS_ROOT,
    )


def capabilities(machine: Machine) -> Feature:
    name = "capabilities"
    held = effective_capabilities(machine)
    if held is None:
        return Feature(name, State.UNKNOWN, "/proc/self/status can't be read", required=True)
    shown = " ".join(sorted(held)) or "none of " + " ".join(sorted(CAPABILITIES))
    # capabilities(7): CAP_SYS_ADMIN still grants what CAP_BPF and CAP_PERFMON were split from.
    missing = [one for one in _ALWAYS_NEEDED if one not in held and "CAP_SYS_ADMIN" not in held]
    if missing:
        return Feature(
            name,
            State.MISSING,
            enumerate_missing(missing),
            f"{AS_ROOT}; or see README, 'Without root'",
            required=True,
        )
    if "CAP_SYS_PTRACE" not in held:
        return Feature(
            name,
            State.LIMITED,
            f"{shown}; without CAP_SYS_PTRACE only your own processes can be read",
            as_root_or_grant(Capability.SYS_PTRACE),
            required=True,
        )
    if "CAP_SYS_RESOURCE" not in held:
        # Maps were charged to RLIMIT_MEMLOCK before Linux 5.11, which root may raise with it.
        shown += " (not CAP_SYS_RESOURCE)"
    return Feature(name, State.OK, shown, required=True)


def _trial_of(capability: Capability) -> Callable[[Machine], Feature]:
    """Whether the kernel does what requires a capability, independently of /proc/self/status."""
    needed = capability in _ALWAYS_NEEDED

    def tried(machine: Machine) -> Feature:
        if not machine.is_running:
            return Feature(capability, State.UNKNOWN, ONLY_LOCALLY)
        granted = is_granted(capability)
        purpose = PURPOSES[capability]
        if granted is None:
            return Feature(capability, State.UNKNOWN, "can't be tested here", required=needed)
        if granted:
            return Feature(capability, State.OK, f"tried: {purpose}", required=needed)
        if capability is Capability.SYS_ADMIN:
            return _without_perf_events()
        state = State.MISSING if needed else State.LIMITED
        advice = as_root_or_grant(capability)
        return Feature(capability, state, f"tried, refused: {purpose}", advice, required=needed)

    return tried


def _without_perf_events() -> Feature:
    """CAP_SYS_ADMIN is refused, which only matters where probes need perf events."""
    name, purpose = Capability.SYS_ADMIN, PURPOSES[Capability.SYS_ADMIN]
    if name not in missing_for_probes():
        return Feature(name, State.OK, f"refused, and not needed: {purpose}")
    advice = as_root_or_grant(name)
    return Feature(name, State.MISSING, f"tried, refused: {purpose}", advice, required=True)


CAPABILITY_TRIALS = tuple(_trial_of(capability) for capability in Capability)


def yama(machine: Machine) -> Feature:
    """kernel.yama.ptrace_scope restricts reading other processes' memory: their code is compared
    with its file before a probe goes into it."""
    name = "yama ptrace_scope"
    scope = machine.read(PTRACE_SCOPE)
    if scope is None or scope == "0":
        return Feature(name, State.OK, scope or "not restricted")
    held = effective_capabilities(machine) or frozenset()
    if scope == "3":
        return Feature(
            name,
            State.LIMITED,
            "3: no process can read the memory of another one, only --faults works",
            "boot with a smaller kernel.yama.ptrace_scope",
        )
    if "CAP_SYS_PTRACE" in held:
        return Feature(name, State.OK, f"{scope}, which CAP_SYS_PTRACE overrides")
    return Feature(
        name,
        State.LIMITED,
        f"{scope}: not even your own processes can be read without CAP_SYS_PTRACE",
        "grant CAP_SYS_PTRACE, or: sysctl kernel.yama.ptrace_scope=0",
    )


def keeper(machine: Machine) -> Feature:
    """Lowering oom_score_adj takes CAP_SYS_RESOURCE (proc_pid_oom_score_adj(5))."""
    name = "probe removal"
    held = effective_capabilities(machine)
    if held is None:
        return Feature(name, State.UNKNOWN, "/proc/self/status can't be read")
    if "CAP_SYS_RESOURCE" in held:
        return Feature(
            name, State.OK, "the helper that removes probes is protected from the OOM killer"
        )
    return Feature(
        name,
        State.LIMITED,
        "the helper that removes probes is not protected from the OOM killer",
        "add CAP_SYS_RESOURCE",
    )


def user_namespace(machine: Machine) -> Feature:
    """In a user namespace, /proc may show every capability although bpf(2) ignores them."""
    name = "user namespace"
    uid_map = machine.read("/proc/self/uid_map")
    if uid_map is None:
        return Feature(name, State.UNKNOWN, "/proc/self/uid_map can't be read")
    if uid_map.split() == ["0", "0", "4294967295"]:
        return Feature(name, State.OK, "none (the host's)")
    return Feature(
        name,
        State.LIMITED,
        "not the host's: the kernel may ignore the capabilities shown here",
        "run outside the container, or in a privileged one without user namespace",
    )


def lockdown(machine: Machine) -> Feature:
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


def perf_event_paranoid(machine: Machine) -> Feature:
    name = "perf_event_paranoid"
    level = machine.read("/proc/sys/kernel/perf_event_paranoid")
    if level is None:
        return Feature(
            name, State.MISSING, "no perf events in this kernel", "boot a kernel with PERF_EVENTS"
        )
    held = effective_capabilities(machine) or frozenset()
    if held & {"CAP_SYS_ADMIN", "CAP_PERFMON"}:
        return Feature(name, State.OK, f"{level}, which your capabilities override")
    return Feature(name, State.LIMITED, f"{level}: restricts this user", AS_ROOT)
