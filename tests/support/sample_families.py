"""Reports about several processes, built by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sample_reports import BUSY, CACHE_SITE, LOST_SITE, NO_LOSSES, PARSE_SITE

from leaktrace.memory import MemoryKinds, ResidentMemory
from leaktrace.model import Ending, ProcessLine, Report, TargetInfo
from leaktrace.site import ProcessShare, Site, StackEnd, Total


def process(pid: int, held: Total, growth_bytes: int | None, **others: Any) -> ProcessLine:
    fields: dict[str, Any] = {
        "parent_pid": 4242,
        "command": "nginx",
        "resident": ResidentMemory(
            50_331_648,
            None if growth_bytes is None else 1_363_148,
            MemoryKinds(41_943_040, 8_388_608),
            MemoryKinds(5_242_880, 131_072),
        ),
        "site_count": 2,
        "traced_s": 15.0,
        "started_under_trace": True,
    }
    return ProcessLine(pid, outstanding=held, growth_bytes=growth_bytes, **{**fields, **others})


# The lines add up to `outstanding` and `growth_bytes` of BUSY. What the new one holds is growth.
FAMILY = replace(
    BUSY,
    target=replace(BUSY.target, command="nginx", notes=(), pids=(4242, 4243, 4250)),
    sites=(
        replace(
            PARSE_SITE,
            processes=(
                ProcessShare(4243, 10_485_760, 10_240),
                ProcessShare(4242, 1_048_576, 1_024),
                ProcessShare(4250, 1_048_576, 1_024),
            ),
        ),
        replace(CACHE_SITE, processes=(ProcessShare(4250, 2_097_152, 1),)),
        replace(LOST_SITE, processes=(ProcessShare(4242, 48, 2), ProcessShare(4243, 48, 1))),
    ),
    resident=None,
    explained=None,
    losses=NO_LOSSES,
    allocations=None,
    processes=(
        process(
            4250,
            Total(3_670_016, 800),
            None,
            resident=None,
            traced_s=2.25,
            ending=Ending(signal=9),
            has_ended=True,
        ),
        process(4243, Total(11_534_336, 11_000), 1_310_720, started_under_trace=False),
        process(
            4242,
            Total(1_572_864, 1_200),
            -3_722_445,
            parent_pid=1,
            started_under_trace=False,
        ),
    ),
)


def _part(number: int, *sites: Site) -> Report:
    """The report about one process of FAMILY."""
    line = FAMILY.processes[number]
    return replace(
        FAMILY,
        target=TargetInfo(line.pid, line.command),
        outstanding=line.outstanding,
        younger=Total(),
        growth_bytes=line.growth_bytes,
        resident=line.resident,
        site_count=line.site_count,
        sites=sites,
        losses=(),
        stack_ends={StackEnd.COMPLETE: line.site_count},
        elapsed_s=line.traced_s,
        ending=line.ending,
        processes=(),
    )


BY_PROCESS = replace(
    FAMILY,
    by_process=(
        _part(0, replace(CACHE_SITE, growth_bytes=None)),
        _part(1, replace(PARSE_SITE, bytes=10_485_760, count=10_240)),
        _part(2, replace(PARSE_SITE, bytes=1_048_576, count=1_024), replace(LOST_SITE, bytes=48)),
    ),
)


# As long as names get (TASK_COMM_LEN), wide ones, and what attacks the terminal.
WORKER_NAMES = ("worker/0:1-even", "漢字漢字漢", "\x1b[2J\x07", "x", "a\nb\u202ec\udcff")
WORKER_PIDS = range(4_194_264, 4_194_304)  # as large as process ids get (PID_MAX_LIMIT)


# What the lines hold adds up to what is outstanding.
WORKERS = replace(
    FAMILY,
    target=TargetInfo(
        WORKER_PIDS[0],
        WORKER_NAMES[0],
        allocators=("libc.so.6: 12 functions",),
        pids=tuple(WORKER_PIDS),
    ),
    outstanding=Total(167_772_160, 40_000),
    younger=Total(),
    growth_bytes=40 * 8_192,
    site_count=1,
    sites=(
        replace(
            PARSE_SITE,
            bytes=167_772_160,
            count=40_000,
            growth_bytes=40 * 8_192,
            processes=tuple(ProcessShare(pid, 4_194_304, 1_000) for pid in WORKER_PIDS),
        ),
    ),
    stack_ends={StackEnd.COMPLETE: 1},
    processes=tuple(
        process(
            pid,
            Total(4_194_304, 1_000),
            8_192,
            command=WORKER_NAMES[row % len(WORKER_NAMES)],
            parent_pid=WORKER_PIDS[row // 2] if row else None,
            site_count=1,
            has_ended=row == 2,
            ending=Ending(status=0) if row == 2 else None,
        )
        for row, pid in enumerate(WORKER_PIDS)
    ),
)
