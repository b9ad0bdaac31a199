"""The options of kernel mode, and which options need it or exclude it."""

from __future__ import annotations

from typing import Any

import click
from click.core import ParameterSource

from leaktrace.cli.one_target import one_process
from leaktrace.cli.values import ProcessId, refuse_given, together
from leaktrace.errors import UsageError
from leaktrace.options import KernelContext, KernelProbes, KernelTarget

# The programs read whole stacks of 127 frames, and all maps are allocated at the start.
KERNEL_MAX_STACKS = 32_768

_KERNEL_ONLY = {
    "kernel_probes": "--kernel-probes",
    "pages": "--pages",
    "percpu": "--percpu",
    "vmalloc": "--vmalloc",
    "cache": "--cache",
    "module": "--module",
    "context": "--context",
    "task": "--task",
    "include_self": "--include-self",
}
_PROCESS_ONLY = {
    "faults": "--faults",
    "obj": "-O",
    "symbols_prefix": "--symbols-prefix",
    "pair": "--pair",
    "fds": "--fds",
    "no_malloc": "--no-malloc",
    "stack_walker": "--stack-walker",
    "max_threads": "--max-threads",
    "sample_bytes": "--sample-bytes",
    "max_overhead_percent": "--max-overhead",
    "probe_returns": "--probe-returns",
    "by": "--by",
    "follow": "--follow",
    "max_processes": "--max-processes",
}


# The options of kernel mode.
kernel_options = together(
    click.option(
        "-k",
        "--kernel",
        is_flag=True,
        help="Trace the kernel's own allocations: which kernel code holds memory.",
    ),
    click.option(
        "--kernel-probes",
        type=click.Choice([choice.value for choice in KernelProbes]),
        default=KernelProbes.AUTO.value,
        show_default=True,
        help="With --kernel: use tracepoints, or kprobes on the allocators' functions.",
    ),
    click.option(
        "--pages",
        is_flag=True,
        help="With --kernel: also trace the page allocator, in its own section. Slabs "
        "take their memory from it, so the two are never added up.",
    ),
    click.option("--percpu", is_flag=True, help="With --kernel: also trace per-CPU memory."),
    click.option("--vmalloc", is_flag=True, help="With --kernel: also trace vmalloc areas."),
    click.option(
        "--cache",
        multiple=True,
        metavar="GLOB",
        help="With --kernel: record only allocations from these slab caches, named as in "
        "/proc/slabinfo: 'kmalloc-*', ext4_inode_cache. Can be repeated.",
    ),
    click.option(
        "--module",
        multiple=True,
        metavar="GLOB",
        help="With --kernel: show only stacks with a function of these modules. Can be repeated.",
    ),
    click.option(
        "--context",
        type=click.Choice([context.value for context in KernelContext]),
        multiple=True,
        help="With --kernel: record only allocations made in this context. Can be repeated.",
    ),
    click.option(
        "--task",
        type=ProcessId(),
        multiple=True,
        callback=one_process,
        metavar="PID",
        help="With --kernel: record only what this process allocates, in its system calls and "
        "page faults.",
    ),
    click.option(
        "--include-self",
        is_flag=True,
        help="With --kernel: also record leaktrace's own allocations.",
    ),
)


def kernel_target(asked: dict[str, Any]) -> KernelTarget | None:
    """The target of kernel mode; None without --kernel. Raises UsageError for options that belong
    to the other mode only."""
    context = click.get_current_context()

    def given(parameter: str) -> bool:
        return context.get_parameter_source(parameter) is ParameterSource.COMMANDLINE

    if not asked["kernel"]:
        for parameter, option in _KERNEL_ONLY.items():
            if given(parameter):
                raise UsageError(f"{option} needs --kernel", f"add -k, or leave out {option}")
        return None
    process_only = {
        option.replace("--", "--no-", 1) if asked[name] is False else option: given(name)
        for name, option in _PROCESS_ONLY.items()
    }
    refuse_given(process_only, "--kernel")
    return KernelTarget(
        probes=KernelProbes(asked["kernel_probes"]),
        pages=asked["pages"],
        percpu=asked["percpu"],
        vmalloc=asked["vmalloc"],
        caches=tuple(asked["cache"]),
        modules=tuple(asked["module"]),
        contexts=tuple(KernelContext(context) for context in asked["context"]),
        task_pid=asked["task"],
        include_self=asked["include_self"],
    )


def kernel_max_stacks(asked: dict[str, Any]) -> int:
    """--max-stacks, whose default differs in kernel mode."""
    source = click.get_current_context().get_parameter_source("max_stacks")
    return asked["max_stacks"] if source is ParameterSource.COMMANDLINE else KERNEL_MAX_STACKS
