"""What has changed while memory was looked at. Which blocks there are is read before; so nothing
is known of those that come later, although what is read may point to them already. The first block
of a list that grows is always such a one, and all others are behind it. And what has been freed
meanwhile may be in use for other blocks, with pointers that have nothing to do with it.

So the records are read once more afterwards. Blocks that are not the same any more are left out.
Words that led to those, or near blocks but to none, are looked at again, and what the new blocks
contain is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from leaktrace.analysis.reachability.kept_details import (
    FAR,
    WORD_SHIFT,
    Details,
    KeptRoots,
    Words,
)
from leaktrace.analysis.reachability.pointers import Between, Blocks, Flags, Pointers
from leaktrace.process.block_records import BlockRecords
from leaktrace.targets.bulk_memory import Piece
from leaktrace.targets.glibc_chunks import apart_from

_MOST_LATE_BYTES = 256 << 20  # of blocks that are read


@dataclass(frozen=True)
class BlockGraph:
    """Blocks, the pointers between them, and the roots that point to them."""

    blocks: Blocks
    stack_ids: NDArray[np.uint64]  # of each block
    times_ns: NDArray[np.uint64]  # of its allocation; 0: it has no record
    between: Between
    places: NDArray[np.uint32]  # parallel to `between`: Details.places
    insides: NDArray[np.uint32]  # parallel to `between`: Details.insides
    roots: KeptRoots
    # New blocks that were left out, since they were too large together; they hold nothing here.
    left_out_count: int = 0
    left_out_bytes: int = 0
    left_out_words: int = 0  # that may lead to new blocks, and were not kept


def with_late_blocks(
    graph: BlockGraph,
    details: Details,
    now: BlockRecords,
    read_all: Callable[[NDArray[np.uint64]], Iterable[Piece]],
) -> tuple[BlockGraph, NDArray[np.intp]]:
    """The graph with the blocks of now, and the numbers in it of those that it had; -1 for those
    that are gone. `details`: what the pass has kept.

    Raises OSError as BulkReader.
    """
    blocks = graph.blocks
    is_kept = _are_same(graph, now)
    late, large = _late(blocks, is_kept, now)
    graph = replace(
        graph, left_out_count=len(large), left_out_bytes=int(now.sizes[large].sum(dtype=np.uint64))
    )
    if not len(late) and is_kept.all():
        return graph, np.arange(len(blocks))
    every = Blocks(
        np.concatenate([blocks.starts[is_kept], now.addresses[late]]),
        np.concatenate([(blocks.ends - blocks.starts)[is_kept], now.sizes[late]]),
    )
    place_of = np.empty(len(every), dtype=np.int32)
    place_of[every.order] = np.arange(len(every), dtype=np.int32)
    kept_count = int(is_kept.sum())
    numbers = np.full(len(blocks), -1, dtype=np.int32)
    numbers[is_kept] = place_of[:kept_count]
    is_late = np.zeros(len(every), dtype=bool)
    is_late[place_of[kept_count:]] = True

    more = Details(len(every), details.rank_of, keeps_unresolved=False)
    pointers = Pointers(every, details=more)
    for addresses, words in (
        details.unresolved(),
        _that_led_to_others(graph, is_kept),
        (graph.roots.addresses, graph.roots.words),
    ):
        was_in, is_in = blocks.find(addresses), every.find(addresses)
        # What is in blocks that are gone doesn't count, and new ones are read again.
        is_there = np.append(is_kept, True)[was_in] & np.append(~is_late, True)[is_in]
        pointers.add(addresses[is_there], words[is_there])
    for piece in read_all(_within(every, np.nonzero(is_late)[0])):
        pointers.add(piece.addresses(np.arange(len(piece.words))), piece.words.copy())

    sources, targets, is_exact = graph.between
    is_same = is_kept[sources] & is_kept[targets]
    new_sources, new_targets, new_exact = pointers.between_blocks()
    return BlockGraph(
        blocks=every,
        stack_ids=np.concatenate([graph.stack_ids[is_kept], now.stack_ids[late]])[every.order],
        times_ns=np.concatenate([graph.times_ns[is_kept], now.times_ns[late]])[every.order],
        between=(
            np.concatenate([numbers[sources[is_same]], new_sources]),
            np.concatenate([numbers[targets[is_same]], new_targets]),
            np.concatenate([is_exact[is_same], new_exact]),
        ),
        places=np.concatenate([graph.places[is_same], more.places()]),
        insides=np.concatenate([graph.insides[is_same], more.insides()]),
        roots=more.roots(),
        left_out_count=graph.left_out_count,
        left_out_bytes=graph.left_out_bytes,
        left_out_words=details.left_out_words if len(late) else 0,
    ), numbers.astype(np.intp)


def _are_same(graph: BlockGraph, now: BlockRecords) -> Flags:
    """Which blocks are still the same. Those without a record are, if no block with one is there by
    now: it may have been free memory."""
    blocks, had_record = graph.blocks, graph.times_ns > 0
    if not len(now):
        return ~had_record
    at = np.searchsorted(now.addresses, blocks.starts).clip(max=len(now) - 1)
    is_there = now.addresses[at] == blocks.starts
    is_same = is_there & had_record & (now.times_ns[at] == graph.times_ns)
    before = np.searchsorted(now.addresses, blocks.ends) - 1  # the last that begins before its end
    ends = now.addresses + np.maximum(now.sizes, np.uint64(1))
    is_apart = (before < 0) | (ends[before] <= blocks.starts)
    chosen: Flags = is_same | (~had_record & is_apart)
    return chosen


def _late(
    blocks: Blocks, is_kept: Flags, now: BlockRecords
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The rows of the records whose blocks are new. If they are too large together, the largest are
    left out: small ones are those that hold others. The second are the rows of these."""
    known = np.stack([blocks.starts[is_kept], blocks.ends[is_kept]], axis=1)
    ranges = np.stack([now.addresses, now.addresses + np.maximum(now.sizes, np.uint64(1))], axis=1)
    rows = np.nonzero(np.isin(now.addresses, apart_from(ranges, known)[:, 0]))[0]
    rows = rows[np.argsort(now.sizes[rows], kind="stable")]
    fits = np.cumsum(now.sizes[rows]) <= np.uint64(_MOST_LATE_BYTES)
    return np.sort(rows[fits]), rows[~fits]


def _that_led_to_others(graph: BlockGraph, is_kept: Flags) -> tuple[Words, Words]:
    """The pointers to blocks that are gone: where they are, and the words."""
    sources, targets, _ = graph.between
    rows = np.nonzero(is_kept[sources] & ~is_kept[targets])[0]
    rows = rows[(graph.places[rows] != FAR) & (graph.insides[rows] != FAR)]
    starts = graph.blocks.starts
    places = graph.places[rows].astype(np.uint64) << WORD_SHIFT
    return starts[sources[rows]] + places, starts[targets[rows]] + graph.insides[rows]


def _within(blocks: Blocks, rows: NDArray[np.intp]) -> NDArray[np.uint64]:
    """The whole words of some blocks, as ranges [start, end)."""
    starts = (blocks.starts[rows] + np.uint64(7)) & ~np.uint64(7)
    ends = blocks.ends[rows] & ~np.uint64(7)
    return np.stack([starts, ends], axis=1)[starts < ends]
