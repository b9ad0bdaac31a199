"""Opens a tracer of the kernel: plans the probes, compiles and loads the BPF program.

Whatever goes wrong on the way, what was opened before is closed.
"""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from leaktrace.bpf.events import EventStream
from leaktrace.errors import AS_ROOT, EnvironmentUnfitError, TargetError
from leaktrace.kernel.probes.functions import BY_RCU, IN_BULK
from leaktrace.kernel.probes.plan import KernelPlan, plan_kernel
from leaktrace.kernel.program import KernelCompilation
from leaktrace.kernel.slab import choose_caches
from leaktrace.kernel.stacks import KernelStacks, read_symbols
from leaktrace.kernel.tracer import KernelTracer
from leaktrace.options import KernelOptions, KernelTarget
from leaktrace.symbols.kallsyms import Kallsyms
from leaktrace.tracing.opening import closed_on_failure


def open_kernel_tracer(options: KernelOptions) -> KernelTracer:
    """A tracer whose program is loaded; `arm()` attaches its probes. Raises LeaktraceError."""
    target = options.target
    with closed_on_failure() as stack:
        symbols = read_symbols()
        _check(target, symbols)
        plan = plan_kernel(target, symbols)
        caches = choose_caches(target.caches) if target.caches else None
        if caches is not None and caches.names and not plan.names_caches:
            raise EnvironmentUnfitError(
                "this kernel's events do not contain the cache that an object is from",
                "choose kmalloc caches only, or filter by size: -z, -Z",
            )
        with KernelCompilation(options, plan, symbols) as compilation:
            program = compilation.finish()
            stack.callback(program.close)
        if caches is not None:
            program.want(caches)
        stream: EventStream | None = None
        if program.trace_events_fd is not None:
            stream = EventStream(
                program.trace_events_fd, is_ring=program.ring_buffer, pages=program.event_pages
            )
            stack.callback(stream.close)
        return KernelTracer(
            options,
            plan=plan,
            notes=[*plan.notes, *_notes(target, plan, symbols)],
            program=program,
            stacks=KernelStacks(program.stacks, symbols, full=options.report.full_stacks),
            stream=stream,
            resources=stack,
        )


def _check(target: KernelTarget, symbols: Kallsyms) -> None:
    """Raises LeaktraceError for a request that this kernel can't fulfil."""
    if target.modules and not Path("/proc/modules").exists():
        raise EnvironmentUnfitError("this kernel has no modules", "leave --module out")
    if target.task_pid is not None and not Path(f"/proc/{target.task_pid}").exists():
        raise TargetError(
            f"no process has the id {target.task_pid}", "choose another one for --task"
        )
    if symbols.is_hidden and (target.modules or target.contexts or target.task_pid is not None):
        raise EnvironmentUnfitError(
            "--module, --context and --task need the kernel's symbols, which it hides",
            f"sysctl kernel.kptr_restrict=1, and {AS_ROOT}",
        )


def _notes(target: KernelTarget, plan: KernelPlan, symbols: Kallsyms) -> Iterator[str]:
    if symbols.is_hidden:
        yield (
            "kernel functions are shown as addresses: the sysctl kernel.kptr_restrict hides "
            "their names (set it to 1 or 0)"
        )
    if plan.by_kprobe:
        yield (
            "the kernel skips a kprobe that hits during another BPF program on its CPU, and "
            "does not count that before Linux 6.7: some blocks may look outstanding"
        )
    missing = [p for p in target.modules if not any(fnmatchcase(m, p) for m in symbols.modules)]
    if missing:
        yield f"not loaded yet: module {', '.join(missing)}"
    unseen = [
        name
        for name, program in (("kfree_rcu", BY_RCU), ("kmem_cache_free_bulk", IN_BULK))
        if not any(probe.program == program.entry for probe in plan.probes)
    ]
    if unseen:
        yield (
            f"frees by {' and '.join(unseen)} can't be seen without kprobes: "
            "sites that they may affect are marked unconfirmed"
        )
