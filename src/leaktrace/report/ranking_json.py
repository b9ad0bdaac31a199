"""The ranking of all processes for programs: one JSON object per line, `leaktrace/ranking/1`.

The contract is `docs/json.md` with `docs/schema/ranking-1.schema.json`: within version 1 fields are
only ever added.
"""

from __future__ import annotations

from leaktrace.printable import printable
from leaktrace.ranks import EndedProcesses, MachineMemory, ProcessMemory, RankedProcess, Ranking
from leaktrace.report.json_lines import cost_object, json_line
from leaktrace.report.json_sites import Object
from leaktrace.report.moment_json import in_utc
from leaktrace.report.reporter import Writer

RANKING_SCHEMA = "leaktrace/ranking/1"


class RankingJson(Writer):
    """--format json."""

    def ranking(self, ranking: Ranking) -> None:
        """Write one report and flush it."""
        self.write(json_line(ranking_object(ranking)))


def ranking_object(ranking: Ranking) -> Object:
    """The JSON object of a ranking (schema `leaktrace/ranking/1`)."""
    return {
        "schema": RANKING_SCHEMA,
        "time": in_utc(ranking.time),
        "elapsed_s": round(ranking.elapsed_s, 3),
        "number": ranking.number,
        "final": ranking.final,
        "reason": printable(ranking.reason),
        "process_count": ranking.process_count,
        "grown_count": ranking.grown_count,
        "top": ranking.top,
        "processes": [_process(one) for one in ranking.processes],
        "other_growth_bytes": ranking.other_growth_bytes,
        "started_count": ranking.started_count,
        "ended": _ended(ranking.ended),
        "machine": _machine(ranking.machine),
        "machine_growth": _machine(ranking.machine_growth),
        "losses": {loss.name: loss.count for loss in ranking.losses},
        "notes": [printable(note) for note in ranking.notes],
        "cost": None if ranking.cost is None else cost_object(ranking.cost),
    }


def _process(one: RankedProcess) -> Object:
    return {
        "pid": one.pid,
        "command": printable(one.command),
        "unit": printable(one.unit) or None,
        "age_s": round(one.age_s, 3),
        "is_new": one.is_new,
        "watched_s": round(one.watched_s, 3),
        "memory": _memory(one.memory),
        "growth": _memory(one.growth),
        "growth_bytes": one.growth_bytes,
        "growth_bytes_per_minute": round(one.growth_bytes_per_minute),
        "since_previous_bytes": one.since_previous_bytes,
        "new_pages": one.new_pages,
        "new_pages_per_s": None if one.new_pages_per_s is None else round(one.new_pages_per_s, 1),
    }


def _memory(memory: ProcessMemory) -> Object:
    return {
        "anonymous_bytes": memory.resident.anonymous,
        "file_bytes": memory.resident.file,
        "shared_bytes": memory.resident.shared,
        "besides_bytes": memory.besides,
    }


def _ended(ended: EndedProcesses) -> Object:
    return {
        "count": ended.count,
        "held_bytes": ended.held_bytes,
        "new_pages": ended.new_pages,
        "commands": [
            {
                "command": printable(one.command),
                "count": one.count,
                "new_pages": one.new_pages,
            }
            for one in ended.commands
        ],
    }


def _machine(memory: MachineMemory) -> Object:
    return {
        "available_bytes": memory.available,
        "anonymous_bytes": memory.anonymous,
        "shared_bytes": memory.shared,
        "swapped_bytes": memory.swapped,
        "slab_bytes": memory.slab,
        "reclaimable_slab_bytes": memory.slab_caches,
        "percpu_bytes": memory.percpu,
        "vmalloc_bytes": memory.vmalloc,
    }
