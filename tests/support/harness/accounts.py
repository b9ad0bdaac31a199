"""Programs that write a list of their blocks (tests/programs/by_chance.h), compared with
leaktrace's list."""

from __future__ import annotations

import select
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from harness.target import Target
from leaktrace.abi.process import LossKind
from leaktrace.options import ProcessOptions, ProcessTarget
from leaktrace.process.setup import open_tracer
from leaktrace.process.tracer import Tracer


def recorded(
    argv: Sequence[str | Path], account: Path, env: Mapping[str, str] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(address, size) of each live block, by address: as leaktrace has it, and as the program.

    `account` is the file that the program writes.
    """
    with Target(argv, env) as target:
        target.await_ready()
        tracer = open_tracer(ProcessOptions(target=ProcessTarget((target.pid,))))
        try:
            tracer.arm()
            _watch(tracer, target)
            snapshot = tracer.snapshot()
        finally:
            tracer.close()
        assert target.end() == 0
    losses = enumerate(snapshot.losses[: LossKind.WALKS].tolist())
    assert {LossKind(kind).name: count for kind, count in losses if count} == {}
    ours = np.stack([snapshot.addresses, snapshot.records["size"]], axis=1)
    theirs = np.fromfile(account, dtype=np.uint64).reshape(-1, 2)
    return ours[ours[:, 0].argsort()], theirs[theirs[:, 0].argsort()]


def _watch(tracer: Tracer, target: Target) -> None:
    """Let it work, and take in events of the kernel side meanwhile: their buffer is small."""
    with ThreadPoolExecutor(1) as executor:
        work = executor.submit(target.do)
        while not work.done():
            select.select([stream.fileno() for stream in tracer.streams()], [], [], 0.05)
            tracer.pump()
        work.result()
    tracer.pump()


def differences(ours: np.ndarray, theirs: np.ndarray) -> list[str]:
    """Leaktrace's errors, the first few of each kind."""
    mine, yours = dict(ours.tolist()), dict(theirs.tolist())
    kinds = {
        "not recorded": [block for block in yours if block not in mine],
        "recorded, but not there": [block for block in mine if block not in yours],
        "of another size": [b for b in yours if b in mine and mine[b] != yours[b]],
    }
    return [
        f"{len(blocks)} {kind}: "
        + ", ".join(f"{b:#x} {mine.get(b)} for {yours.get(b)}" for b in blocks[:5])
        for kind, blocks in kinds.items()
        if blocks
    ]
