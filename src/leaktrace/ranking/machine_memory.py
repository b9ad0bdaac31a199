"""The memory of the whole machine (/proc/meminfo, proc_meminfo(5))."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from leaktrace.ranks import MachineMemory

MEMINFO = Path("/proc/meminfo")
_FIELDS = {
    "available": "MemAvailable",
    "anonymous": "AnonPages",
    "shared": "Shmem",
    "slab": "SUnreclaim",
    "slab_caches": "SReclaimable",
    "percpu": "Percpu",  # Linux 4.20
    "vmalloc": "VmallocUsed",  # 0 from Linux 4.4 to 5.2; contains the stacks of threads
}


def read_machine_memory(text: str | None = None) -> MachineMemory:
    """The memory of the machine now. What the kernel does not show is 0, as its growth is then.

    `text`: the contents of /proc/meminfo.
    """
    if text is None:
        try:
            text = MEMINFO.read_text()
        except OSError:
            return MachineMemory()
    held: dict[str, int] = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if words and words[0].isdigit():
            held[name] = int(words[0]) << 10
    figures = {ours: held.get(theirs, 0) for ours, theirs in _FIELDS.items()}
    swapped = held.get("SwapTotal", 0) - held.get("SwapFree", 0)
    return MachineMemory(**figures, swapped=swapped)


def machine_growth(now: MachineMemory, first: MachineMemory) -> MachineMemory:
    """The change of each figure."""
    return MachineMemory(
        **{one.name: getattr(now, one.name) - getattr(first, one.name) for one in fields(now)}
    )
