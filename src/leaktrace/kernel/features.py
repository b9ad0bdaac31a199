"""The features of a machine that only kernel mode needs."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

from leaktrace.abi.kernel import SECTION_NAMES
from leaktrace.bpf.btf import KernelTypes
from leaktrace.errors import AS_ROOT, EnvironmentUnfitError
from leaktrace.kernel.probes.tracepoints import TRACEPOINTS
from leaktrace.machine.machine import ONLY_LOCALLY, Feature, Machine, State

_ALLOC_TRACES = "/sys/kernel/debug/slab/kmalloc-64/alloc_traces"


def _tracepoints(machine: Machine) -> Feature:
    """Read from the running kernel's type information, as plan_kernel does."""
    name = "kmem tracepoints"
    if not machine.is_running:
        return Feature(name, State.UNKNOWN, ONLY_LOCALLY)
    try:
        types = KernelTypes()
    except EnvironmentUnfitError as error:
        return Feature(name, State.LIMITED, error.message, "kprobes are used instead")
    try:
        readable: dict[str, bool] = {}
        for tracepoint in TRACEPOINTS:
            section = SECTION_NAMES[tracepoint.section]
            arguments = types.tracepoint_arguments(tracepoint.name)
            fits = arguments is not None and tracepoint.read(arguments) is not None
            readable[section] = readable.get(section, True) and (fits or not tracepoint.required)
    finally:
        types.close()
    found = [section for section, fits in readable.items() if fits]
    missing = [section for section, fits in readable.items() if not fits]
    if missing:
        return Feature(
            name,
            State.LIMITED,
            f"for {', '.join(found) or 'nothing'}; not for {', '.join(missing)}",
            "kprobes are used instead where there are any",
        )
    return Feature(name, State.OK, f"for {', '.join(found)}")


def _symbols(machine: Machine) -> Feature:
    """Whether /proc/kallsyms shows addresses: sysctl kernel.kptr_restrict (proc(5))."""
    name = "kernel symbols"
    try:
        with machine.path("/proc/kallsyms").open(encoding="utf-8", errors="replace") as lines:
            addresses = [line.split(" ", 1)[0] for line in islice(lines, 100)]
    except OSError:
        return Feature(
            name, State.MISSING, "no /proc/kallsyms", "boot a kernel with CONFIG_KALLSYMS"
        )
    restrict = machine.read("/proc/sys/kernel/kptr_restrict")
    if not "".join(addresses).strip("0"):
        return Feature(
            name,
            State.LIMITED,
            f"hidden (kptr_restrict {restrict}): functions are shown as addresses",
            AS_ROOT if restrict in ("0", "1") else f"sysctl kernel.kptr_restrict=1, and {AS_ROOT}",
        )
    return Feature(name, State.OK, f"shown (kptr_restrict {restrict})")


def _slabinfo(machine: Machine) -> Feature:
    if machine.read("/proc/slabinfo") is None:
        return Feature(
            "slabinfo",
            State.LIMITED,
            "/proc/slabinfo can't be read: no --cache, and no comparison in reports",
            AS_ROOT,
        )
    return Feature("slabinfo", State.OK, "reports compare their sum with it")


def _allocation_profiling(machine: Machine) -> Feature:
    """CONFIG_MEM_ALLOC_PROFILING (Linux 6.10): the kernel's own count by source line."""
    name = "allocation profiling"
    if machine.path("/proc/allocinfo").exists():
        return Feature(name, State.OK, "/proc/allocinfo counts memory by source line, since boot")
    return Feature(
        name, State.LIMITED, "no /proc/allocinfo", "nothing to do: leaktrace does not need it"
    )


def _slab_debugging(machine: Machine) -> Feature:
    """SLUB's user tracking, with slab_debug=U (Documentation/mm/slub.rst)."""
    name = "slab debugging"
    if machine.path(_ALLOC_TRACES).exists():
        return Feature(name, State.OK, "/sys/kernel/debug/slab/*/alloc_traces shows older objects")
    return Feature(
        name, State.LIMITED, "no alloc_traces", "nothing to do; optional: boot with slab_debug=U"
    )


_PROBES: tuple[Callable[[Machine], Feature], ...] = (
    _tracepoints,
    _symbols,
    _slabinfo,
    _allocation_profiling,
    _slab_debugging,
)


def kernel_features(machine: Machine | None = None) -> tuple[Feature, ...]:
    """The features of `machine` (None: this machine) that only kernel mode needs."""
    machine = machine or Machine()
    return tuple(probe(machine) for probe in _PROBES)
