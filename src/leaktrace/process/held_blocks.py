"""Who holds the blocks of one process: found while its memory is looked at, and told by site.

The pointers are needed only during the look. Afterwards each block has the number of its path: four
bytes.

A container often is older than the trace. So the blocks of malloc without a record are looked for,
too (targets/glibc_chunks.py): they are steps on the way like any other, and nothing more is known
of them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from leaktrace.analysis.reachability.holders import Counts, count_by_path, find_holders
from leaktrace.analysis.reachability.kept_details import Details
from leaktrace.analysis.reachability.paths import Paths
from leaktrace.analysis.reachability.pointers import Between, Blocks, Pointers
from leaktrace.analysis.reachability.ways import placed
from leaktrace.process.block_records import BlockRecords
from leaktrace.process.late_blocks import BlockGraph, with_late_blocks
from leaktrace.process.looked_at import LookedAt
from leaktrace.process.unrecorded_classes import classes_of
from leaktrace.reach import HolderKind, HolderStep
from leaktrace.roots.module_data import FileTables, ObjectFiles
from leaktrace.roots.root_map import NamedRoots
from leaktrace.roots.root_names import open_roots
from leaktrace.targets.dead_stacks import ReadMemory
from leaktrace.targets.glibc_arenas import Arenas
from leaktrace.targets.glibc_chunks import apart_from, find_chunks, find_mapped_chunks
from leaktrace.targets.mappings import Mapping
from leaktrace.targets.page_map import Range
from leaktrace.targets.thread_registers import Registers

BlockStep = Callable[[int], HolderStep]  # what blocks are told as, by the stack id of their site
FunctionAt = Callable[[int], str | None]  # the function that has an address
MORE_BYTES = 64 << 20  # behind the blocks that are known: others may have come there since
FIRST_HIGH = np.uint64(1 << 47)  # address with five-level page tables, which is not looked for

NO_RECORD = (1 << 64) - 1  # in place of a stack id
_NO_RECORD_STEP = HolderStep(HolderKind.UNTRACKED)
# What malloc keeps of a thread's last freed blocks (tcache_perthread_struct, malloc/malloc.c of
# glibc 2.26, 2.30 and 2.42): its pointers lead to free memory.
_CACHE_BYTES = np.array([0x248, 0x288, 0x2F8], dtype=np.uint64)


@dataclass(frozen=True)
class HeldBlocks:
    """The paths to the blocks of one process that have a record, by ascending address."""

    sizes: NDArray[np.uint64]
    sites: NDArray[np.int32]  # of each block: the row in `stack_ids`
    stack_ids: NDArray[np.uint64]  # ascending
    owners: list[HolderStep]
    of_block: NDArray[np.int32]  # the number of its path; -1: it is not known what leads to it
    paths: Paths
    unrecorded: dict[int, HolderStep]  # blocks without a record, by what is in place of a stack id
    left_out_count: int = 0  # blocks that came meanwhile, and were not read
    left_out_bytes: int = 0
    left_out_words: int = 0  # that may lead to such blocks, and were not kept

    def of_site(self, stack_ids: Collection[int], among: NDArray[np.intp]) -> dict[int, Counts]:
        """By path: how many of these blocks are of these sites, and their bytes."""
        wanted = np.nonzero(np.isin(self.stack_ids, np.array(list(stack_ids), dtype=np.uint64)))[0]
        rows = among[np.isin(self.sites[among], wanted)]
        return count_by_path(self.of_block[rows], self.sizes[rows])

    def sites_on(self, path: int) -> list[int]:
        """The sites of a path, by stack id."""
        steps = self.paths.steps(path) if path >= 0 else []
        found = [int(self.stack_ids[one.number]) for one in steps if not one.is_root]
        return [one for one in found if one not in self.unrecorded]

    def steps(
        self, path: int, block_step: BlockStep, function_at: FunctionAt
    ) -> tuple[HolderStep, ...]:
        """A path, from the root on; empty if it is not known."""
        found = []
        for one in self.paths.steps(path) if path >= 0 else []:
            if one.is_root:
                step = self.owners[one.number]
                if step.code_address is not None:
                    name = function_at(step.code_address)
                    step = replace(step, name=name, code_address=None)
            else:
                stack_id = int(self.stack_ids[one.number])
                step = self.unrecorded.get(stack_id) or block_step(stack_id)
            found.append(placed(step, one))
        return tuple(found)


@dataclass(frozen=True)
class AskedHolders:
    """That it is asked who holds the blocks, and what is needed to find out."""

    tables: FileTables
    # Reads the records of the blocks once more: addresses, and abi.ALLOCATION of each. None: the
    # process is stopped, or was.
    records_now: Callable[[], tuple[NDArray[np.uint64], NDArray[np.void]]] | None = None


@dataclass(frozen=True)
class Recorded:
    """What is known of blocks, parallel to them."""

    stack_ids: NDArray[np.uint64]  # NO_RECORD: it has none
    times_ns: NDArray[np.uint64]  # of its allocation; 0: it has no record
    is_judged: NDArray[np.bool_]  # it is asked who holds it; others are only on the way

    @classmethod
    def of(cls, values: NDArray[np.void]) -> Recorded:
        """`values`: abi.ALLOCATION of each. All are judged."""
        return cls(values["stack_id"], values["time_ns"], np.ones(len(values), dtype=bool))


class HolderSearch:
    """Looks for what holds the blocks, in one pass."""

    def __init__(
        self,
        pid: int,
        blocks: Blocks,
        recorded: Recorded,
        asked: AskedHolders,
        *,
        knows_all: bool = False,
    ) -> None:
        """`knows_all`: there are no other blocks in the memory of the allocator, and what nothing
        leads to is lost."""
        self._pid = pid
        self._asked = asked
        self._knows_all = knows_all
        self._every, self._recorded = blocks, recorded
        self.opened = ExitStack()

    def __enter__(self) -> HolderSearch:
        return self

    def __exit__(self, *_: object) -> None:
        self.opened.close()

    def add_others(
        self,
        memory: LookedAt,
        arenas: Arenas,
        mappings: Sequence[Mapping],
        *,
        pages: NDArray[np.uint64],
        read: ReadMemory,
    ) -> Blocks:
        """The blocks, and those of malloc without a record. `pages`: the ranges of memory that may
        have some; `read`: within a page."""
        blocks = self._every
        sizes = blocks.ends - blocks.starts
        others = find_chunks(arenas.heaps, arenas.first_chunks, blocks.starts, sizes, read)
        mapped = find_mapped_chunks(mappings, pages, memory.read_all)
        known = np.stack([blocks.starts, blocks.ends], axis=1)
        others = apart_from(np.concatenate([others, apart_from(mapped, others)]), known)
        every = Blocks(
            np.concatenate([blocks.starts, others[:, 0]]),
            np.concatenate([sizes, others[:, 1] - others[:, 0]]),
        )
        unknown, was = np.full(len(others), NO_RECORD, dtype=np.uint64), self._recorded
        self._recorded = Recorded(
            np.concatenate([was.stack_ids, unknown])[every.order],
            np.concatenate([was.times_ns, np.zeros_like(unknown)])[every.order],
            np.concatenate([was.is_judged, np.zeros(len(others), dtype=bool)])[every.order],
        )
        self._every = every
        return every

    def begin(
        self,
        memory: LookedAt,
        mappings: Sequence[Mapping],
        heaps: Sequence[Range],
        threads: Registers,
        registers_now: Callable[[], Registers],
        *,
        files: ObjectFiles,
        pages: NDArray[np.uint64],
    ) -> Details:
        """What the pass is to keep. `pages`: memory that is there, [start, end), n x 2.

        Raises OSError or TargetError when the process has ended.
        """
        self._memory, self._mappings, self._pages = memory, mappings, pages
        self._map = open_roots(
            self._pid,
            mappings,
            heaps,
            threads,
            files=files,
            tables=self._asked.tables,
            read=memory.read,
            registers_now=registers_now,
            opened=self.opened,
        ).map
        goes_on = self._asked.records_now is not None
        self._details = Details(len(self._every), self._map.rank_of, keeps_unresolved=goes_on)
        return self._details

    def find(self, between: Between) -> HeldBlocks:
        """The paths, from what the pass has kept. Raises OSError when the process has ended."""
        details = self._details
        graph = BlockGraph(
            self._every,
            self._recorded.stack_ids,
            self._recorded.times_ns,
            between,
            details.places(),
            details.insides(),
            details.roots(),
        )
        numbers = np.arange(len(self._every))
        if self._asked.records_now is not None:
            addresses, values = self._asked.records_now()
            is_low = addresses < FIRST_HIGH
            records = BlockRecords.of(addresses[is_low], values[is_low])
            graph, numbers = with_late_blocks(graph, details, records, self._memory.read_all)
        return self._held(graph, numbers[self._recorded.is_judged])

    def _held(self, graph: BlockGraph, numbers: NDArray[np.intp]) -> HeldBlocks:
        """`numbers`: of the blocks that are judged, -1 for those that are gone."""
        named = self._map.name(graph.roots)
        has_record = graph.stack_ids != np.uint64(NO_RECORD)
        sizes = graph.blocks.ends - graph.blocks.starts
        owners = [*named.owners, _NO_RECORD_STEP]
        # Of a heap that was walked, they are no blocks.
        may_be_cache = ~has_record & np.isin(sizes, _CACHE_BYTES) & (not self._knows_all)
        caches = _caches(named, may_be_cache)
        between, places = graph.between, graph.places
        if caches.any():
            is_pointer = ~caches[between[0]]
            sources, targets, is_exact = between
            between = sources[is_pointer], targets[is_pointer], is_exact[is_pointer]
            places = places[is_pointer]
        by_class, unrecorded = self._by_class(graph)
        stack_ids, sites = np.unique(by_class, return_inverse=True)
        has_unknown = bool((by_class == np.uint64(NO_RECORD)).any())
        held = find_holders(
            sites.astype(np.int32),
            between,
            places,
            roots=named.roots,
            owners=named.numbers,
            root_offsets=named.offsets,
            own_roots=None if self._knows_all else (~has_record & ~caches, len(owners) - 1),
            no_site=len(stack_ids) - 1 if has_unknown else -1,
        )
        return HeldBlocks(
            sizes=np.append(sizes, np.uint64(0))[numbers],  # -1: the last
            sites=np.append(sites, -1).astype(np.int32)[numbers],
            stack_ids=stack_ids,
            owners=owners,
            of_block=np.append(held.of_block, np.int32(-1))[numbers],
            paths=held.paths,
            unrecorded=unrecorded,
            left_out_count=graph.left_out_count,
            left_out_bytes=graph.left_out_bytes,
            left_out_words=graph.left_out_words,
        )

    def _by_class(self, graph: BlockGraph) -> tuple[NDArray[np.uint64], dict[int, HolderStep]]:
        """The stack ids, and in their place, of blocks without a record, a number for each class;
        and what these are told as."""
        rows = np.nonzero(graph.stack_ids == np.uint64(NO_RECORD))[0]
        starts = graph.blocks.starts[rows]
        names, numbers = classes_of(self._memory, starts, self._pages, self._mappings)
        ids = graph.stack_ids.copy()
        is_known = numbers >= 0
        ids[rows[is_known]] -= np.uint64(1) + numbers[is_known].astype(np.uint64)
        steps = {
            NO_RECORD - 1 - number: replace(_NO_RECORD_STEP, name=name)
            for number, name in enumerate(names)
        }
        return ids, {NO_RECORD: _NO_RECORD_STEP, **steps}

    def without_others(self, pointers: Pointers, between: Between) -> tuple[Pointers, Between]:
        """The pointers, as if only the blocks that are judged were known."""
        is_judged = self._recorded.is_judged
        return (pointers, between) if is_judged.all() else pointers.among(is_judged, between)


def _caches(named: NamedRoots, may_be: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which blocks are the caches of malloc: libc points to them from thread-local storage."""
    is_cache = np.zeros(len(may_be), dtype=bool)
    kinds = [one.kind is HolderKind.TLS for one in named.owners]
    of_tls = named.roots.is_exact & np.array([*kinds, False])[named.numbers]
    is_cache[named.roots.targets[of_tls]] = True
    found: NDArray[np.bool_] = is_cache & may_be
    return found
