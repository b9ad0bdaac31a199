"""Rankings of processes, built by hand."""

from __future__ import annotations

import io
from datetime import UTC, datetime

from leaktrace.memory import MemoryKinds
from leaktrace.model import Cost, Loss
from leaktrace.ranks import (
    EndedCommand,
    EndedProcesses,
    MachineMemory,
    ProcessMemory,
    RankedProcess,
    Ranking,
)
from leaktrace.report import create_ranking_reporter

MIB = 1 << 20

WORKER = RankedProcess(
    pid=4242,
    command="worker",
    unit="shop.service",
    age_s=130.5,
    is_new=False,
    watched_s=15.0,
    memory=ProcessMemory(MemoryKinds(100 * MIB, 4 * MIB, 0)),
    growth=ProcessMemory(MemoryKinds(96 * MIB, MIB, 0)),
    since_previous_bytes=32 * MIB,
    new_pages=24_832,
    new_pages_per_s=1638.4,
)
POSTGRES = RankedProcess(
    pid=99_777,
    command="postgres",
    unit="postgresql@15-main.service",
    age_s=86_400.0 * 3,
    is_new=True,
    watched_s=15.0,
    memory=ProcessMemory(MemoryKinds(8 * MIB, 20 * MIB, 128 * MIB), 3 * MIB),
    growth=ProcessMemory(MemoryKinds(MIB, 0, 8 * MIB), 3 * MIB),
    since_previous_bytes=-4096,
    new_pages=2_100,
    new_pages_per_s=0.0,
)
BUSY_MACHINE = Ranking(
    time=datetime(2026, 11, 24, 6, tzinfo=UTC),
    elapsed_s=15.0,
    number=3,
    final=False,
    reason="",
    processes=(WORKER, POSTGRES),
    top=2,
    process_count=412,
    grown_count=5,
    other_growth_bytes=3 * MIB,
    started_count=2,
    ended=EndedProcesses(
        1_204,
        5 * MIB,
        300_000,
        (EndedCommand("cc1", 600, 280_000), EndedCommand("sh", 604, 20_000)),
    ),
    machine=MachineMemory(
        2048 * MIB, 4096 * MIB, 128 * MIB, 3 * MIB, 200 * MIB, 90 * MIB, MIB, MIB
    ),
    machine_growth=MachineMemory(-150 * MIB, 100 * MIB, 8 * MIB, 3 * MIB, 30 * MIB, 0, 0, 2 * MIB),
    losses=(
        Loss("new_pages", 0, "new pages not counted: the map of processes is full", "a hint"),
        Loss("ended_commands", 0, "ended processes not listed by name: the map of names is full"),
    ),
)
QUIET_MACHINE = Ranking(
    time=datetime(2026, 11, 24, 6, tzinfo=UTC),
    elapsed_s=5.0,
    number=1,
    final=True,
    reason="interrupted (SIGINT)",
    processes=(),
    top=10,
    process_count=1,
    grown_count=0,
    other_growth_bytes=0,
    started_count=0,
    ended=EndedProcesses(0, 0),
    machine=MachineMemory(2048 * MIB),
    machine_growth=MachineMemory(),
    notes=("new pages are not counted: the kernel does not permit loading BPF programs",),
    cost=Cost(own_cpu_share=0.012, own_resident_bytes=50 * MIB),
)
RANKINGS = {"busy": BUSY_MACHINE, "quiet": QUIET_MACHINE}


def rendered_ranking(format_name: str, *rankings: Ranking) -> str:
    output = io.StringIO()
    reporter = create_ranking_reporter(format_name, output, io.StringIO())
    for one in rankings:
        reporter.ranking(one)
    return output.getvalue()
