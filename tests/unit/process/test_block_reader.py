"""Blocks are shown as long as their records are there: a process of its own account, and records
that the test keeps in place of the kernel side."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from harness.compiling import Compiler
from harness.target import Target

from leaktrace.abi import process as abi
from leaktrace.analysis.snapshot import Snapshot
from leaktrace.contents import PointerKind
from leaktrace.errors import TargetError
from leaktrace.process.block_reader import BlockReader
from leaktrace.symbols.data_names import new_tables
from leaktrace.symbols.symbolizer import ProcessSymbolizer
from leaktrace.targets.process import Process

SLOT, GENERATION = 3, 2
SESSIONS, NODES = 11, 12  # stack ids


class Records:
    """What the kernel side has."""

    def __init__(self) -> None:
        self.times_ns: dict[int, int] = {}
        self.generation = GENERATION
        self.exec_time_ns = 0

    def lookup(self, key: int) -> Any:
        assert key >> abi.SLOT_SHIFT == SLOT
        time_ns = self.times_ns.get(key & ((1 << abi.SPACE_SHIFT) - 1))
        return None if time_ns is None else {"time_ns": time_ns}


class Traced:
    """The program with its blocks, and a reader of them."""

    def __init__(self, target: Target, lines: list[str]) -> None:
        truth = dict(line.split(" ", 2)[1:] for line in lines if line.startswith("truth "))
        self.session, self.node = int(truth["session"], 16), int(truth["node"], 16)
        self.node_bytes = bytes.fromhex(truth["nodes"])
        self.records = Records()
        self.records.times_ns = {self.session: 100, self.node: 200}
        self.process = Process(target.pid)
        values = np.zeros(2, dtype=abi.ALLOCATION)
        values["size"], values["time_ns"] = (16, 40), (100, 200)
        values["stack_id"] = SESSIONS, NODES
        self.snapshot = Snapshot(
            time_ns=1000,
            generation=GENERATION,
            addresses=np.array([self.session, self.node], dtype=np.uint64),
            records=values,
            site_ids=np.zeros(0, dtype=np.uint64),
            sites=np.zeros(0, dtype=abi.SITE),
            losses=np.zeros(0, dtype=np.uint64),
            record_slots=np.full(2, SLOT, dtype=np.uint16),
        )
        slot = SimpleNamespace(
            generation=lambda: self.records.generation,
            session_now=lambda: {"exec_time_ns": self.records.exec_time_ns},
        )
        traced = SimpleNamespace(
            slot=slot, symbolizer=ProcessSymbolizer(target.pid), process=self.process
        )
        self.member: Any = SimpleNamespace(number=SLOT, pid=target.pid, traced=traced)

    def reader(self) -> BlockReader:
        program: Any = SimpleNamespace(allocations=self.records)
        return BlockReader(
            self.member, program, self.snapshot, new_tables(), "site {}".format, shows_pid=False
        )


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Compiler(tmp_path_factory.mktemp("programs"))("contents.cpp")


@pytest.fixture
def target(program: Path) -> Iterator[Target]:
    with Target([program]) as one:
        yield one.await_ready()


@contextmanager
def traced(target: Target) -> Iterator[Traced]:
    target.do()
    one = Traced(target, target._output.seen)
    try:
        yield one
    finally:
        one.process.close()


def test_a_block_that_stays_is_shown(target: Target) -> None:
    with traced(target) as one, one.reader() as reader:
        block = reader.read(1)
        assert block is not None
        assert (block.address, block.size_bytes, block.age_ns) == (one.node, 40, 800)
        assert block.data == one.node_bytes
        session = block.pointers[1]
        assert (session.kind, session.name, session.site_id, session.into_bytes) == (
            PointerKind.BLOCK,
            "Session",
            "site 11",
            0,
        )
        assert block.pointers[2].is_own


def test_a_block_that_was_freed_is_not_shown(target: Target) -> None:
    with traced(target) as one, one.reader() as reader:
        one.records.times_ns = dict.fromkeys(one.records.times_ns, 300)  # allocated again
        assert reader.read(0) is None
        one.records.times_ns.clear()
        assert reader.read(1) is None


def test_a_block_that_was_freed_is_not_named(target: Target) -> None:
    with traced(target) as one, one.reader() as reader:
        del one.records.times_ns[one.session]
        block = reader.read(1)
        assert block is not None
        assert [pointer.offset for pointer in block.pointers] == [0, 16, 24, 32]


def test_blocks_of_another_program_are_not_shown(target: Target) -> None:
    with traced(target) as one:
        with one.reader() as reader:
            one.records.generation += 1
            assert reader.read(1) is None
        one.records.exec_time_ns = 150  # between the two blocks
        with one.reader() as reader:
            assert reader.read(0) is None
            assert reader.read(1) is not None


def test_a_process_that_has_ended(target: Target) -> None:
    with traced(target) as one, one.reader() as reader:
        target.process.kill()
        target.process.wait()
        with pytest.raises(TargetError, match="has ended"):
            reader.read(0)
        with pytest.raises(TargetError, match=r"has ended|no longer has memory"):
            one.reader()
