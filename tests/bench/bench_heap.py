"""What it takes to walk a heap as it stands.

    python tests/bench/bench_heap.py [BLOCKS MIB]

A program holds a million blocks of 1 GiB in all. Its memory is copied while it is stopped, and its
heap is walked in the copy.
"""

from __future__ import annotations

import os
import sys
import time

from benchmarking.processes import build, processor_s, reserve_core, resident_mb
from benchmarking.results import Results, require_root
from harness.target import Target
from stopped_image import image_of

from leaktrace.heap.walk import walk_heap

ROUNDS = 3
LEAST_CHUNKS_PER_S = 500_000
MOST_BYTES_PER_CHUNK = 128


def main() -> None:
    require_root()
    blocks, mib = map(int, sys.argv[1:3] or ("1000000", "1024"))
    results = Results("heap")
    reserve_core()
    results.title(f"{blocks:,} blocks, {mib:,} MiB")
    with Target([build("bench_lost.c", "-pthread"), str(blocks), str(mib)]) as target:
        target.await_ready()
        target.do()
        began = time.monotonic()
        image, mappings = image_of(target.pid)
        results.add("time of the copy, while the program is stopped", time.monotonic() - began, "s")
    held_mb = resident_mb(os.getpid())[0]
    cpu_s, per_s, chunks = [], [], 0
    for _ in range(ROUNDS):
        before_s, began = processor_s(os.getpid()), time.monotonic()
        heap = walk_heap(image, mappings)
        took_s = time.monotonic() - began
        cpu_s.append(processor_s(os.getpid()) - before_s)
        if heap is None or heap.problems:
            sys.exit(f"the heap was not walked: {heap and heap.problems}")
        chunks = len(heap.addresses) + len(heap.free_addresses)
        per_s.append(chunks / took_s)
        del heap
    most_mb = resident_mb(os.getpid())[1] - held_mb
    results.add("chunks", chunks, "chunks")
    results.add("processor time of a walk", cpu_s, "s", chunks / LEAST_CHUNKS_PER_S)
    results.add("chunks a second", per_s, "chunks/s")
    results.add("memory beside the copy", most_mb * 1e6 / chunks, "B/chunk", MOST_BYTES_PER_CHUNK)
    results.save()


if __name__ == "__main__":
    main()
