"""/proc/meminfo, and what it says about the kernel and all processes."""

from __future__ import annotations

from leaktrace.ranking.machine_memory import machine_growth, read_machine_memory
from leaktrace.ranks import MachineMemory

MEMINFO = """\
MemTotal:        8021464 kB
MemAvailable:    5000000 kB
SwapTotal:       2000000 kB
SwapFree:        1500000 kB
AnonPages:        900000 kB
Shmem:             30000 kB
KReclaimable:      70000 kB
Slab:             170000 kB
SReclaimable:      70000 kB
SUnreclaim:       100000 kB
VmallocTotal:   34359738367 kB
VmallocUsed:      121592 kB
Percpu:              776 kB
HugePages_Total:       0
"""


def test_fields() -> None:
    found = read_machine_memory(MEMINFO)
    assert found == MachineMemory(
        available=5_000_000 << 10,
        anonymous=900_000 << 10,
        shared=30_000 << 10,
        swapped=500_000 << 10,
        slab=100_000 << 10,
        slab_caches=70_000 << 10,
        percpu=776 << 10,
        vmalloc=121_592 << 10,
    )
    assert found.processes == (900_000 + 30_000 + 500_000) << 10
    assert found.kernel == (100_000 + 776 + 121_592) << 10


def test_what_a_kernel_does_not_show_has_no_growth() -> None:
    old = MEMINFO.replace("Percpu", "Unknown").replace("VmallocUsed:", "VmallocUsed: many")
    found = read_machine_memory(old)
    assert (found.percpu, found.vmalloc) == (0, 0)
    growth = machine_growth(found, found)
    assert growth == MachineMemory()
    assert read_machine_memory("") == MachineMemory()


def test_growth() -> None:
    more = read_machine_memory(MEMINFO.replace("900000 kB", "900100 kB"))
    growth = machine_growth(more, read_machine_memory(MEMINFO))
    assert growth == MachineMemory(anonymous=100 << 10)
    assert growth.processes == 100 << 10


def test_this_machine() -> None:
    found = read_machine_memory()
    assert found.available > 0
    assert found.anonymous > 0
    assert found.slab > 0
