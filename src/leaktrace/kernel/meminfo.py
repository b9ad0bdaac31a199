"""The kernel's own figures for memory whose allocator is not traced (/proc/meminfo, proc(5)).

A leak in vmalloc's areas or in per-CPU memory does not show in the slabs. If one of them grows, and
its option was not given, the report names that option. There is no such figure for the page
allocator: the page cache, the memory of processes and the slabs all come from it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from leaktrace.abi.kernel import SECTION_NAMES, Section
from leaktrace.memory import UntracedGrowth

MEMINFO = Path("/proc/meminfo")
_FIELDS = {"VmallocUsed": Section.VMALLOC, "Percpu": Section.PERCPU}
_OPTIONS = {Section.VMALLOC: "--vmalloc", Section.PERCPU: "--percpu"}
# Stacks of threads come from vmalloc, and their number varies.
_LEAST_BYTES = 1 << 20
_LEAST_SHARE = 0.1  # of what is outstanding


def read_held(text: str | None = None) -> dict[Section, int]:
    """Bytes that these allocators have allocated, as far as the kernel shows them. `text`: the
    contents of /proc/meminfo."""
    if text is None:
        try:
            text = MEMINFO.read_text()
        except OSError:
            return {}
    held = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if name in _FIELDS and words and words[0].isdigit():
            held[_FIELDS[name]] = int(words[0]) << 10
    return held


def untraced_growth(
    first: Mapping[Section, int],
    now: Mapping[Section, int],
    traced: Collection[Section],
    outstanding_bytes: int,
) -> tuple[UntracedGrowth, ...]:
    """What has grown without being traced, and by enough to matter next to what is outstanding;
    largest first."""
    least = max(_LEAST_BYTES, int(outstanding_bytes * _LEAST_SHARE))
    grown = [
        UntracedGrowth(SECTION_NAMES[section], _OPTIONS[section], now[section] - first[section])
        for section in _OPTIONS
        if section in first and section in now and section not in traced
    ]
    matters = [one for one in grown if one.bytes >= least]
    return tuple(sorted(matters, key=lambda one: -one.bytes))
