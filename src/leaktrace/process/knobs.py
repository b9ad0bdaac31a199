"""The knobs (-D flags) of the BPF program of process mode, and the capacities of its maps, from the
options and the running kernel."""

from __future__ import annotations

import os
from collections.abc import Mapping

from leaktrace.abi import process as abi
from leaktrace.bpf import support
from leaktrace.bpf.events import PAGE_BYTES, event_pages, uses_ring_buffer
from leaktrace.options import ProcessOptions
from leaktrace.own.privileges import may_signal_all
from leaktrace.process.kernel_tables import LATE_OBJECTS
from leaktrace.process.probes.object_plan import Way, best_way
from leaktrace.process.task_offsets import task_offset_knobs
from leaktrace.targets.namespaces import pids_are_global
from leaktrace.unwind.placed import MAX_KNOWN_OBJECTS

ANY_USER = 0xFFFFFFFF  # bpf/process/config.h
FILE_CAPACITY = 2 * abi.MAX_FILE_MAPPINGS  # two lists
POINT_CAPACITY = 8192
_SUSPENDED_CAPACITY = 4096
_RELEASE_CAPACITY = 4096  # pairs of a site and a stack that frees its blocks
_LOADED_CAPACITY = 4096  # objects of the loader's lists
_MOST_WITH_OWN_ROOM = 8  # processes; more share that: their libraries are mostly the same
_PROCESS_CAPACITY = 65_536  # traced ones, and descendants that may be traced
# Calls of mmap, munmap and mremap are few next to malloc: they get a fourth of the buffer that
# --trace gets.
_REGION_SHARE = 2


def knobs_from_options(options: ProcessOptions) -> dict[str, int]:
    """The -D flags of bpf/shared/config.h and bpf/process/config.h that follow from the options and
    the running kernel."""
    filters = options.filters
    on_demand = support.allocates_map_memory_on_demand()
    knobs = {
        "HASH_FLAGS": 1 if on_demand else 0,
        "SAMPLE_RATE": filters.sample_rate,
        "THROTTLE": int(options.max_overhead_percent is not None),
        "SAMPLE_BYTES": filters.sample_bytes or 0,
        "TRACE": int(options.report.trace),
        "STOP_AT_START": int(options.command is not None),
        "CONTINUES_UID": ANY_USER if may_signal_all() else os.getuid(),
        "USE_RING_BUFFER": int(uses_ring_buffer(options.event_buffer)),
        "ENTER_BY_COOKIE": int(support.has_attach_cookie()),
        "POINTS": int(uses_points(options)),
        "COUNT_FREED": int(counts_freed(options)),
        "LIFETIMES": int(measures_lifetimes(options)),
        "IN_PID_NAMESPACE": int(not pids_are_global()),
        "PAIRS": int(bool(options.pairs)),
        "FD_SPACE": options.descriptor_space,
        "HAS_TASK_PT_REGS": int(support.has_task_pt_regs()),
    }
    knobs |= task_offset_knobs(
        exit_status=options.command is None or options.follow, exit_stop=stops_at_exit(options)
    )
    if options.lost is not None:
        knobs["STOP_WITH_THREADS"] = 1
    if filters.min_size_bytes is not None:
        knobs |= {"MIN_SIZE": filters.min_size_bytes, "SIZES_FILTERED": 1}
    if filters.max_size_bytes is not None:
        knobs |= {"MAX_SIZE": filters.max_size_bytes, "SIZES_FILTERED": 1}
    return knobs


def records_all(knobs: Mapping[str, int]) -> bool:
    """Whether every block is recorded that is seen allocated (RECORDS_ALL, process/config.h)."""
    chooses = ("SAMPLE_BYTES", "THROTTLE", "SIZES_FILTERED")
    return knobs["SAMPLE_RATE"] <= 1 and not any(knobs.get(name) for name in chooses)


def stops_at_exit(options: ProcessOptions) -> bool:
    """Whether a command is stopped before it exits, if the kernel's types are known."""
    return options.command is not None and not options.faults


def counts_freed(options: ProcessOptions) -> bool:
    """Whether the kernel side counts releases by site, which costs each release a look-up. Needed
    only where reports are not made from records, or where records are a sample."""
    filters = options.filters
    is_sampled = filters.sample_rate > 1 or filters.sample_bytes is not None
    may_be_sampled = options.max_overhead_percent is not None
    return options.report.combined_only or options.faults or is_sampled or may_be_sampled


def measures_lifetimes(options: ProcessOptions) -> bool:
    """Whether the kernel side counts how long blocks live that are released."""
    return not options.report.combined_only and not options.faults


def uses_points(options: ProcessOptions) -> bool:
    """Whether calls are followed by points within functions."""
    return way_of(options) is Way.POINTS and not options.faults


def way_of(options: ProcessOptions) -> Way:
    """How calls are followed."""
    return Way.RETURNS if options.probe_returns else best_way()


def slot_count(options: ProcessOptions) -> int:
    """How many processes can be traced at a time."""
    return options.limits.max_processes if options.may_be_several else 1


def capacities_from_options(options: ProcessOptions) -> dict[str, int]:
    """The capacity of each map, by the map's name."""
    limits, slots = options.limits, slot_count(options)
    return {
        "allocations": limits.max_allocs,
        "sites": limits.max_stacks,
        "stacks": limits.max_stacks,
        "threads": limits.max_threads * (1 + options.space_count),
        "trace_events": event_pages(limits.event_buffer_bytes) * PAGE_BYTES,
        "region_events": event_pages(limits.event_buffer_bytes // _REGION_SHARE) * PAGE_BYTES,
        "file_mappings": FILE_CAPACITY * slots,
        "file_list": slots,
        "file_faults": slots,
        "points": POINT_CAPACITY if slots == 1 else 4 * POINT_CAPACITY,
        "loaded": _LOADED_CAPACITY * min(slots, _MOST_WITH_OWN_ROOM),
        "sent_objects": _LOADED_CAPACITY * min(slots, _MOST_WITH_OWN_ROOM),
        "suspended": _SUSPENDED_CAPACITY,
        "known_objects": MAX_KNOWN_OBJECTS,
        "releases": _RELEASE_CAPACITY,
        "session": slots,
        "unwind_list": slots * abi.UNWIND_LISTS,
        "late_objects": slots * LATE_OBJECTS,
        "processes": _PROCESS_CAPACITY,
        "closed_ranges": slots * abi.CLOSED_RANGES,
    }
