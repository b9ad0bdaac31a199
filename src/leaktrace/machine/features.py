"""All that leaktrace needs of a machine: privileges, packages, features of the kernel.

Features are tested, never concluded from a kernel's version: from files (here, privileges.py,
packages.py) or by trial (trials.py).
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable

from leaktrace.errors import EnvironmentUnfitError
from leaktrace.machine import packages, privileges
from leaktrace.machine.damon import damon
from leaktrace.machine.machine import Feature, Machine, State
from leaktrace.machine.trials import KERNEL_TRIALS, bpf_system_call


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
        machine,
        "kprobes",
        "nothing to do: kernel mode then sees only allocations with tracepoints",
        required=False,
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
    packages.libbpf,
    packages.bcc,
    _uprobes,
    bpf_system_call,
    *KERNEL_TRIALS,
    _kprobes,
    _tracefs,
    _btf,
    damon,
)
_KERNEL_MODE = (
    privileges.capabilities,
    privileges.lockdown,
    packages.libbpf,
    packages.bcc,
    bpf_system_call,
)
_USER_MODE = (privileges.capabilities, privileges.lockdown, _uprobes, *_KERNEL_MODE[2:])


def all_features(machine: Machine | None = None) -> tuple[Feature, ...]:
    """Every feature of a machine (default: this one), in the order in which doctor shows them."""
    machine = machine or Machine()
    return tuple(probe(machine) for probe in _PROBES)


def require_user_mode(machine: Machine | None = None) -> None:
    """Return if a process can be traced on this machine.

    Raises EnvironmentUnfitError for the first requirement that isn't met. Takes a millisecond: only
    requirements are tested.
    """
    _require(machine or Machine(), _USER_MODE)


def require_kernel_mode(machine: Machine | None = None) -> None:
    """Return if the kernel can be traced on this machine.

    Raises EnvironmentUnfitError for the first requirement that isn't met.
    """
    _require(machine or Machine(), _KERNEL_MODE)


def _require(machine: Machine, probes: Iterable[Callable[[Machine], Feature]]) -> None:
    for probe in probes:
        feature = probe(machine)
        if feature.blocks:
            raise EnvironmentUnfitError(_BLOCKED.get(feature.name, feature.detail), feature.advice)


_BLOCKED = {
    "uprobes": "this kernel has no uprobes",
    "libbpf": "libbpf is not installed",
    "bcc": "the BPF compiler collection (bcc) for Python is not installed",
}
