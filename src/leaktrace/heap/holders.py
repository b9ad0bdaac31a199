"""Who holds the blocks of each group of a heap: the ways that lead to them from variables, stacks
and registers (docs/lost.md, "Who holds it").

It is what --holders says of the sites of a trace, but that all blocks of the heap are known here,
and that the steps between are groups: no call stack is known.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np

from leaktrace import units
from leaktrace.analysis.block_classes import BlockClass
from leaktrace.analysis.reachability.classes import Classes, classify
from leaktrace.analysis.reachability.holders import Held, count_by_path, find_holders
from leaktrace.analysis.reachability.kept_details import Details
from leaktrace.analysis.reachability.pointers import Blocks
from leaktrace.analysis.reachability.ways import MOST_WAYS, Steps, Ways, placed
from leaktrace.heap.beginnings import Grouped
from leaktrace.heap.memory import HeapMemory
from leaktrace.heap.reach import Ranges, find_pointers
from leaktrace.heap_report import BlockGroup
from leaktrace.reach import Holder, HolderKind, HolderStep
from leaktrace.roots.module_data import FileTables
from leaktrace.roots.root_names import OpenedRoots, open_roots

_HELD = (BlockClass.REACHABLE, BlockClass.POSSIBLE)
_MOST_NAMED = 3


@dataclass(frozen=True)
class GroupHolders:
    """The ways to all blocks of a heap."""

    blocks: Blocks
    grouped: Grouped
    owners: list[HolderStep]  # of roots
    held: Held
    notes: tuple[str, ...]  # what is not known

    def of(
        self, row: int, classes: Classes, describe: Callable[[int], BlockGroup]
    ) -> tuple[Holder, ...]:
        """Those to the blocks of a group that are not lost, the most common first."""
        is_held = np.isin(classes.classes, _HELD) & (self.grouped.group_of == row)
        rows = np.nonzero(is_held)[0]
        sizes = (self.blocks.ends - self.blocks.starts)[rows]
        counts = count_by_path(self.held.of_block[rows], sizes)
        ways = Ways()
        ways.of_count(len(rows))
        for path in sorted(counts, key=lambda one: -counts[one][0])[:MOST_WAYS]:
            ways.add(self._steps(path, describe), *counts[path])
        return ways.holders()

    def _steps(self, path: int, describe: Callable[[int], BlockGroup]) -> Steps:
        return tuple(
            placed(
                self.owners[one.number] if one.is_root else _group_step(describe(one.number)), one
            )
            for one in (self.held.paths.steps(path) if path >= 0 else ())
        )


def _group_step(group: BlockGroup) -> HolderStep:
    return HolderStep(
        HolderKind.GROUP,
        name=group.name or None,
        group=group.kind.value,
        least_bytes=group.least_bytes,
        most_bytes=group.most_bytes,
    )


def find_classes_and_holders(
    memory: HeapMemory,
    blocks: Blocks,
    grouped: Grouped,
    dead: Ranges,
    owned: Ranges,
    *,
    tables: FileTables,
    go_on: Callable[[], None],
) -> tuple[Classes, GroupHolders]:
    """The classes of the blocks of a heap, and who holds those that are not lost. `dead`, `owned`,
    `go_on`: as of `find_pointers`."""
    with ExitStack() as opened:
        roots, notes = _open_roots(memory, tables, opened)
        details = Details(len(blocks), roots.map.rank_of, keeps_unresolved=False)
        pointers = find_pointers(
            memory.image, blocks, memory.registers, dead, owned, details=details, go_on=go_on
        )
        between = pointers.between_blocks()
        named = roots.map.name(details.roots())
        go_on()
        held = find_holders(
            grouped.group_of.astype(np.int32),
            between,
            details.places(),
            roots=named.roots,
            owners=named.numbers,
            root_offsets=named.offsets,
        )
        owners = [_with_function(one, roots) for one in named.owners]
    go_on()
    return classify(pointers, between), GroupHolders(blocks, grouped, owners, held, notes)


def _open_roots(
    memory: HeapMemory, tables: FileTables, opened: ExitStack
) -> tuple[OpenedRoots, tuple[str, ...]]:
    """And a note on the names that are missing."""
    roots = open_roots(
        memory.pid,
        memory.mappings,
        (),
        memory.registers,
        files=memory.objects(),
        tables=tables,
        read=memory.read,
        registers_now=lambda: memory.registers,
        opened=opened,
    )
    names = list(dict.fromkeys(one.rpartition("/")[2] for one in roots.missing))
    if not names:
        return roots, ()
    shown = ", ".join(names[:_MOST_NAMED]) + (", …" if len(names) > _MOST_NAMED else "")
    why = "it is not there any more, or another one, or can't be opened"
    files_of = units.counted(len(names), "file")
    return roots, (f"variables and functions of {files_of} have no names ({shown}): {why}",)


def _with_function(step: HolderStep, roots: OpenedRoots) -> HolderStep:
    """The function of a stack frame, while the objects are open."""
    if step.code_address is None:
        return step
    return replace(step, name=roots.function_at(step.code_address), code_address=None)
