"""Removes frames from kernel stacks that don't identify the allocating code: those of leaktrace's
own probes, and those of the allocator."""

from __future__ import annotations

import re
from collections.abc import Iterable

from leaktrace.site import Frame

# The frames between the traced code and the BPF program that reads the stack.
_PROBE = re.compile(
    r"bpf_prog_\w+|bpf_trace_run\d+|__bpf_trace_\w+|__traceiter_\w+|trace_call_bpf"
    r"|(?:arch_|__)?(?:rethook|kretprobe)_trampoline\w*|(?:kprobe|kretprobe)_(?:dispatcher|perf_func)"
    r"|perf_trace_run_bpf_submit"
)
_DEEPEST_PROBE_FRAME = 8
# Functions that only pass a request for memory on. Constant propagation and the like add suffixes.
_ALLOCATOR = re.compile(
    r"""(?:
      (?:__|___)?k[vzc]?z?(?:m?alloc|free)(?:_node|_track_caller|_array|_cache|_large|_trace|_order
        |_noprof|_bulk|_n|_objs)*
    | __(?:do_)?kmalloc\w* | kmalloc_\w+ | __kvmalloc\w* | kvmalloc_\w+
    | (?:__)?kmem_cache_(?:z?alloc)\w*
    | k?v?mem_?dup\w* | kmemdup\w* | kstrdup\w* | kstrndup\w* | k?vasprintf\w* | kasprintf\w*
    | __?krealloc\w* | krealloc\w* | __do_krealloc\w* | kvrealloc\w*
    | (?:__)?(?:folio_)?alloc_(?:frozen_)?pages?\w* | __get_free_pages\w* | get_free_pages\w*
    | get_zeroed_page\w* | (?:__)?folio_alloc\w* | __alloc_frozen_pages\w*
    | pcpu_alloc\w* | __alloc_percpu\w*
    | (?:__)?v[mz]alloc\w* | __vmalloc_\w+ | (?:__)?get_vm_area\w* | alloc_vmap_area\w*
    )(?:\.(?:constprop|isra|part|cold)\.?\d*)*""",
    re.VERBOSE,
)


def is_allocator(function: str) -> bool:
    """Whether a function at the leaf of a kernel stack is part of the allocator, or a helper that
    allocates for its caller (kmemdup)."""
    return _ALLOCATOR.fullmatch(function) is not None


def without_probe(frames: Iterable[Frame]) -> list[Frame]:
    """The frames from the traced code outwards: without the probe's frames, and without the frames
    below them (the BPF program, whose name may be hidden)."""
    kept = list(frames)
    for place in reversed(range(min(len(kept), _DEEPEST_PROBE_FRAME))):
        if _is(kept[place], _PROBE):
            return kept[place + 1 :]
    return kept


def without_allocator(frames: list[Frame]) -> list[Frame]:
    """The frames from the allocator's caller outwards. A stack of allocator frames only is returned
    whole."""
    first = next((i for i, f in enumerate(frames) if not _is(f, _ALLOCATOR)), 0)
    return frames[first:]


def _is(frame: Frame, expression: re.Pattern[str]) -> bool:
    return frame.function is not None and expression.fullmatch(frame.function) is not None
