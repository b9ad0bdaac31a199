"""Which of the kernel's allocators are traced, and by which probes of those that it offers."""

from __future__ import annotations

from dataclasses import dataclass, field

from leaktrace.abi.kernel import Section
from leaktrace.bpf import links, support, syscalls
from leaktrace.bpf.btf import KernelTypes
from leaktrace.errors import EnvironmentUnfitError
from leaktrace.kernel.probes.functions import FUNCTIONS, UNSEEN_RELEASES, KernelFunctionGroup
from leaktrace.kernel.probes.tracepoints import TRACEPOINTS, Tracepoint
from leaktrace.options import KernelProbes, KernelTarget
from leaktrace.symbols.kallsyms import Kallsyms

_CACHE_MEMBERS = {
    "name": "CACHE_NAME_OFFSET",
    "object_size": "CACHE_OBJECT_SIZE_OFFSET",
    "size": "CACHE_SIZE_OFFSET",
}
_SECTION_NAMES = {
    Section.SLAB: "slab",
    Section.PAGES: "the page allocator",
    Section.PERCPU: "percpu memory",
    Section.VMALLOC: "vmalloc",
}
_RETURN_PROGRAM = "return_from"


@dataclass(frozen=True)
class FunctionProbe:
    """A kprobe on one function."""

    function: str
    program: str
    section: Section
    is_return: bool = False


@dataclass
class KernelPlan:
    """What will be attached, in this order: releases first, so that the release of every recorded
    block is seen."""

    tracepoints: list[Tracepoint] = field(default_factory=list)
    probes: list[FunctionProbe] = field(default_factory=list)
    knobs: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    sections: tuple[Section, ...] = (Section.SLAB,)
    by_kprobe: bool = False
    names_caches: bool = False  # whether allocations contain their slab cache
    sees_bulk_frees: bool = False

    def programs(self) -> list[tuple[str, int]]:
        """(name, enum bpf_prog_type) of the BPF programs to load, each once."""
        needed = [
            (program, syscalls.PROG_TYPE_RAW_TRACEPOINT)
            for tracepoint in self.tracepoints
            for program in tracepoint.programs
        ]
        needed += [(probe.program, syscalls.PROG_TYPE_KPROBE) for probe in self.probes]
        return list(dict.fromkeys(needed))


def wanted_sections(target: KernelTarget) -> tuple[Section, ...]:
    """The sections that are requested, in the order in which they are reported."""
    asked = {
        Section.SLAB: True,
        Section.PAGES: target.pages,
        Section.PERCPU: target.percpu,
        Section.VMALLOC: target.vmalloc,
    }
    return tuple(section for section, is_wanted in asked.items() if is_wanted)


def plan_kernel(target: KernelTarget, symbols: Kallsyms) -> KernelPlan:
    """Choose the probes.

    Raises EnvironmentUnfitError when the kernel lacks what was requested, with what to do instead.
    """
    try:
        types: KernelTypes | None = KernelTypes()
    except EnvironmentUnfitError:
        types = None
    plan = KernelPlan(sections=wanted_sections(target))
    try:
        if types is not None:
            _learn_cache_layout(plan, types)
        has_kprobes = links.has_kprobes()
        if target.probes is KernelProbes.KPROBE and not has_kprobes:
            raise EnvironmentUnfitError(
                "this kernel has no kprobes (CONFIG_KPROBE_EVENTS)",
                "leave --kernel-probes out: tracepoints show the same",
            )
        for section in plan.sections:
            _plan_section(plan, section, target.probes, types, symbols)
        if plan.probes:
            plan.by_kprobe = Section.SLAB in {s for s in plan.sections if _is_probed(plan, s)}
        if has_kprobes:
            _plan_unseen_releases(plan, symbols)
    finally:
        if types is not None:
            types.close()
    plan.tracepoints.sort(key=lambda tracepoint: not tracepoint.is_release)
    releases = {group.entry for group in (*FUNCTIONS, *UNSEEN_RELEASES) if group.is_release}
    plan.probes.sort(key=lambda probe: (probe.program not in releases, not probe.is_return))
    if plan.probes:
        plan.knobs["WITH_KPROBES"] = 1
    return plan


def _is_probed(plan: KernelPlan, section: Section) -> bool:
    return not any(tracepoint.section is section for tracepoint in plan.tracepoints)


def _learn_cache_layout(plan: KernelPlan, types: KernelTypes) -> None:
    offsets = {knob: types.member_offset("kmem_cache", m) for m, knob in _CACHE_MEMBERS.items()}
    if None not in offsets.values():
        plan.knobs |= {knob: offset for knob, offset in offsets.items() if offset is not None}


def _plan_section(
    plan: KernelPlan,
    section: Section,
    choice: KernelProbes,
    types: KernelTypes | None,
    symbols: Kallsyms,
) -> None:
    """One allocator: by tracepoints, unless kprobes are requested and it has functions to
    probe."""
    groups = [group for group in FUNCTIONS if group.section is section]
    by_kprobe = choice is KernelProbes.KPROBE and bool(groups)
    if not by_kprobe and _plan_tracepoints(plan, section, types):
        return
    if choice is not KernelProbes.TRACEPOINT and groups and links.has_kprobes():
        _plan_functions(plan, groups, symbols)
        return
    raise EnvironmentUnfitError(
        f"this kernel has no tracepoints for {_SECTION_NAMES[section]} that can be read"
        + (" (it has no type information, BTF)" if types is None else ""),
        "use --kernel-probes kprobe" if groups and links.has_kprobes() else "leave it out",
    )


def _plan_tracepoints(plan: KernelPlan, section: Section, types: KernelTypes | None) -> bool:
    """Whether this kernel's tracepoints can be used; if so, plan them."""
    if types is None or support.declined("tracepoints"):
        return False
    chosen: list[Tracepoint] = []
    knobs: dict[str, int] = {}
    for tracepoint in TRACEPOINTS:
        if tracepoint.section is not section:
            continue
        arguments = types.tracepoint_arguments(tracepoint.name)
        read = None if arguments is None else tracepoint.read(arguments)
        if read is None:
            if tracepoint.required:
                return False
            continue
        chosen.append(tracepoint)
        knobs |= read
    has_layout = "CACHE_SIZE_OFFSET" in plan.knobs
    if section is Section.SLAB:
        if "KMEM_CACHE_ALLOC_BYTES_REQ" not in knobs and not has_layout:
            return False
        plan.names_caches = has_layout and "KMEM_CACHE_ALLOC_CACHE" in knobs
    plan.tracepoints += chosen
    plan.knobs |= knobs
    return True


def _plan_functions(plan: KernelPlan, groups: list[KernelFunctionGroup], symbols: Kallsyms) -> None:
    has_layout = "CACHE_SIZE_OFFSET" in plan.knobs
    for group in groups:
        if group.needs_cache and not has_layout:
            plan.notes.append(
                f"not probed: {group.purpose}, whose sizes require type information (BTF)"
            )
            continue
        found = [name for name in group.names if name in symbols.names]
        if not found and not group.optional:
            plan.notes.append(f"not probed: {group.purpose}; this kernel has no {group.names[0]}")
        for name in found:
            plan.probes.append(FunctionProbe(name, group.entry, group.section))
            if not group.is_release:
                plan.probes.append(
                    FunctionProbe(name, _RETURN_PROGRAM, group.section, is_return=True)
                )
    if any(group.section is Section.SLAB for group in groups):
        plan.names_caches = has_layout


def _plan_unseen_releases(plan: KernelPlan, symbols: Kallsyms) -> None:
    """Releases that no tracepoint reports, by kprobes."""
    for group in UNSEEN_RELEASES:
        for name in group.names:
            if name in symbols.names:
                plan.probes.append(FunctionProbe(name, group.entry, group.section))
