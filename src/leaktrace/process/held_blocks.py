"""Who holds the blocks of one process: found while its memory is looked at, and told by site.

The pointers are needed only during the look. Afterwards each block has the number of its path: four
bytes.

A container often is older than the trace. So the blocks of malloc without a record are looked for,
too (targets/glibc_chunks.py): they are steps on the way like any other, and nothing more is known
of them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from leaktrace.analysis.reachability.holders import find_holders
from leaktrace.analysis.reachability.kept_details import Details
from leaktrace.analysis.reachability.paths import Paths
from leaktrace.analysis.reachability.pointers import Between, Blocks, Pointers
from leaktrace.process.block_records import BlockRecords
from leaktrace.process.late_blocks import BlockGraph, with_late_blocks
from leaktrace.process.module_data import FileTables, open_modules
from leaktrace.process.registers import Registers
from leaktrace.process.root_map import REGISTERS, NamedRoots, RootMap
from leaktrace.process.stack_frames import StackFrames
from leaktrace.process.threads_data import program_of, threads_data
from leaktrace.process.unrecorded_classes import classes_of
from leaktrace.reach import HolderKind, HolderStep
from leaktrace.targets.bulk_memory import BulkReader
from leaktrace.targets.dead_stacks import ReadMemory
from leaktrace.targets.glibc_arenas import Arenas
from leaktrace.targets.glibc_chunks import apart_from, find_chunks, find_mapped_chunks
from leaktrace.targets.mappings import Mapping
from leaktrace.targets.memory import ProcessMemory

BlockStep = Callable[[int], HolderStep]  # what blocks are told as, by the stack id of their site
FunctionAt = Callable[[int], str | None]  # the function that has an address
MORE_BYTES = 64 << 20  # behind the blocks that are known: others may have come there since
_FIRST_HIGH = np.uint64(1 << 47)  # address with five-level page tables, which is not looked for

_NO_RECORD = (1 << 64) - 1  # in place of a stack id
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

    def of_site(
        self, stack_ids: Collection[int], among: NDArray[np.intp]
    ) -> dict[int, tuple[int, int]]:
        """By path: how many of these blocks are of these sites, and their bytes."""
        wanted = np.nonzero(np.isin(self.stack_ids, np.array(list(stack_ids), dtype=np.uint64)))[0]
        rows = among[np.isin(self.sites[among], wanted)]
        paths, of_path = np.unique(self.of_block[rows], return_inverse=True)
        counts = np.bincount(of_path, minlength=len(paths))
        total = np.bincount(
            of_path, weights=self.sizes[rows].astype(np.float64), minlength=len(paths)
        )
        rows_of = zip(paths.tolist(), counts.tolist(), total.tolist(), strict=True)
        return {path: (count, round(size)) for path, count, size in rows_of}

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
            found.append(
                replace(
                    step,
                    offset=one.next_low,
                    last_offset=one.next_high,
                    repeats=one.repeats,
                    to_middle=one.to_middle,
                )
            )
        return tuple(found)


@dataclass(frozen=True)
class AskedHolders:
    """That it is asked who holds the blocks, and what is needed to find out."""

    tables: FileTables
    # Reads the records of the blocks once more: addresses, and abi.ALLOCATION of each. None: the
    # process is stopped.
    records_now: Callable[[], tuple[NDArray[np.uint64], NDArray[np.void]]] | None = None


class HolderSearch:
    """Looks for what holds the blocks, in one pass."""

    def __init__(
        self, pid: int, blocks: Blocks, values: NDArray[np.void], asked: AskedHolders
    ) -> None:
        """`blocks`: those with a record; `values`: abi.ALLOCATION of each, in the same order."""
        self._pid = pid
        self._asked = asked
        self._pages = np.empty((0, 2), dtype=np.uint64)
        self._see(blocks, values["stack_id"], values["time_ns"])
        self._open = ExitStack()

    def __enter__(self) -> HolderSearch:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def add_others(
        self,
        arenas: Arenas,
        mappings: Sequence[Mapping],
        *,
        pages: NDArray[np.uint64],
        read: ReadMemory,
    ) -> Blocks:
        """The blocks, and those of malloc without a record. `pages`: the ranges of memory that may
        have some; `read`: within a page."""
        blocks, self._pages = self._every, pages
        sizes = blocks.ends - blocks.starts
        others = find_chunks(arenas.heaps, arenas.first_chunks, blocks.starts, sizes, read)
        mapped = find_mapped_chunks(mappings, pages, BulkReader(self._pid).read_all)
        known = np.stack([blocks.starts, blocks.ends], axis=1)
        others = apart_from(np.concatenate([others, apart_from(mapped, others)]), known)
        every = Blocks(
            np.concatenate([blocks.starts, others[:, 0]]),
            np.concatenate([sizes, others[:, 1] - others[:, 0]]),
        )
        unknown = np.full(len(others), _NO_RECORD, dtype=np.uint64)
        self._see(
            every,
            np.concatenate([self._stack_ids, unknown])[every.order],
            np.concatenate([self._times_ns, np.zeros_like(unknown)])[every.order],
        )
        return every

    def _see(
        self, every: Blocks, stack_ids: NDArray[np.uint64], times_ns: NDArray[np.uint64]
    ) -> None:
        self._every, self._stack_ids, self._times_ns = every, stack_ids, times_ns
        self._has_record = stack_ids != np.uint64(_NO_RECORD)

    def begin(
        self,
        mappings: Sequence[Mapping],
        arenas: Arenas | None,
        threads: Registers,
        registers_now: Callable[[], Registers],
    ) -> Details:
        """What the pass is to keep. Raises OSError or TargetError when the process has ended."""
        pid = self._pid
        memory = self._open.enter_context(ProcessMemory(pid))

        def read(address: int, size: int) -> bytes:
            with suppress(OSError):
                return memory.read(address, size)
            return b""

        self._mappings, self._read = mappings, read
        modules = open_modules(
            pid, mappings, self._asked.tables, lambda elf: self._open.callback(elf.close)
        )
        placed = threads_data(pid, threads, mappings, modules, read)
        program = program_of(pid, modules)
        frames = StackFrames(modules, threads, registers_now, read)
        self._map = RootMap(
            mappings, arenas, modules, program, threads=placed, registers=threads, frames=frames
        )
        self._details = Details(len(self._every), self._map.rank_of)
        return self._details

    def find(self, between: Between) -> HeldBlocks:
        """The paths, from what the pass has kept. Raises OSError when the process has ended."""
        details = self._details
        graph = BlockGraph(
            self._every,
            self._stack_ids,
            self._times_ns,
            between,
            details.places(),
            details.insides(),
            details.roots(),
        )
        numbers = np.arange(len(self._every))
        if self._asked.records_now is not None:
            addresses, values = self._asked.records_now()
            is_low = addresses < _FIRST_HIGH
            records = BlockRecords.of(addresses[is_low], values[is_low])
            graph, numbers = with_late_blocks(
                graph, details, records, BulkReader(self._pid).read_all
            )
        return self._held(graph, numbers[self._has_record])

    def _held(self, graph: BlockGraph, numbers: NDArray[np.intp]) -> HeldBlocks:
        """`numbers`: of the blocks that had a record, -1 for those that are gone."""
        named = self._map.name(graph.roots)
        has_record = graph.stack_ids != np.uint64(_NO_RECORD)
        sizes = graph.blocks.ends - graph.blocks.starts
        owners = [*named.owners, _NO_RECORD_STEP]
        caches = _caches(named, ~has_record & np.isin(sizes, _CACHE_BYTES))
        between, places = graph.between, graph.places
        if caches.any():
            is_pointer = ~caches[between[0]]
            sources, targets, is_exact = between
            between = sources[is_pointer], targets[is_pointer], is_exact[is_pointer]
            places = places[is_pointer]
        by_class, unrecorded = self._by_class(graph)
        stack_ids, sites = np.unique(by_class, return_inverse=True)
        has_unknown = bool((by_class == np.uint64(_NO_RECORD)).any())
        held = find_holders(
            sites.astype(np.int32),
            between,
            places,
            roots=named.roots,
            owners=named.numbers,
            root_offsets=named.offsets,
            own_roots=(~has_record & ~caches, len(owners) - 1),
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
        rows = np.nonzero(graph.stack_ids == np.uint64(_NO_RECORD))[0]
        starts = graph.blocks.starts[rows]
        names, numbers = classes_of(self._pid, starts, self._pages, self._mappings, self._read)
        ids = graph.stack_ids.copy()
        is_known = numbers >= 0
        ids[rows[is_known]] -= np.uint64(1) + numbers[is_known].astype(np.uint64)
        steps = {
            _NO_RECORD - 1 - number: replace(_NO_RECORD_STEP, name=name)
            for number, name in enumerate(names)
        }
        return ids, {_NO_RECORD: _NO_RECORD_STEP, **steps}

    def without_others(self, pointers: Pointers, between: Between) -> tuple[Pointers, Between]:
        """The pointers, as if only the blocks with a record were known."""
        if self._has_record.all():
            return pointers, between
        return pointers.among(self._has_record, between)


def _caches(named: NamedRoots, may_be: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which blocks are the caches of malloc: libc points to them from thread-local storage."""
    is_cache = np.zeros(len(may_be), dtype=bool)
    kinds = [one.kind is HolderKind.TLS for one in named.owners]
    of_tls = named.roots.is_exact & np.array([*kinds, False])[named.numbers]
    is_cache[named.roots.targets[of_tls]] = True
    found: NDArray[np.bool_] = is_cache & may_be
    return found


def places_of_registers(threads: Registers) -> NDArray[np.uint64]:
    """What stands for the addresses of their words."""
    return np.uint64(REGISTERS) + np.arange(threads.words.size, dtype=np.uint64)
