"""The account of shared memory and the program break. The mappings of the process are given by
hand: what the kernel would show at that moment, or does not show any more."""

from __future__ import annotations

import time

import numpy as np

from leaktrace.abi import process as abi
from leaktrace.abi.process import EventCode, Function
from leaktrace.memory import Backing
from leaktrace.process.region_account import RegionAccount
from leaktrace.targets.mappings import Mapping

PAGE = 4096
AT = 0x7F00_0000_0000
TMPFS = "00:1c"


def event(
    kind: EventCode,
    function: Function,
    address: int,
    size: int = 0,
    *,
    tid: int = 1,
    time_ns: int = 1,
) -> np.void:
    made: np.void = np.zeros(1, dtype=abi.EVENT)[0]
    made["kind"], made["function"], made["address"], made["size"] = kind, function, address, size
    made["tid"], made["time_ns"], made["stack_id"] = tid, time_ns, 7
    return made


def mapping(
    start: int, size: int, path: str, device: str = "00:01", *, offset: int = 0, inode: int = 5
) -> Mapping:
    return Mapping(start, start + size, "rw-s", offset, device, inode, path)


class Machine:
    """A process whose mappings are set by the test."""

    def __init__(self, *, least: int | None = None) -> None:
        self.mappings: tuple[Mapping, ...] = ()
        self.reads = 0
        self.account = RegionAccount(self._read, lambda: frozenset({TMPFS}), least)

    def _read(self) -> tuple[Mapping, ...]:
        self.reads += 1
        return self.mappings

    def held(self, backing: Backing) -> list[tuple[int, int]]:
        addresses, records = self.account.ledger_of(backing).records(backing)
        return list(zip(addresses.tolist(), records["size"].tolist(), strict=True))


def mapped(machine: Machine, path: str, device: str) -> Backing:
    """What a new mapping of this file is taken for."""
    machine.account.apply(event(EventCode.REGION_ADD, Function.MMAP, AT, PAGE))
    machine.mappings = (mapping(AT, PAGE, path, device),)
    machine.account.look()
    (found,) = (one for one in Backing if machine.held(one))
    return found


def test_what_is_shared_memory() -> None:
    assert mapped(Machine(), "/memfd:x", "00:01") is Backing.SHARED_FILE
    assert mapped(Machine(), "/dev/shm/x", TMPFS) is Backing.SHARED_FILE
    assert mapped(Machine(), "/run/x", TMPFS) is Backing.SHARED_FILE
    assert mapped(Machine(), "/memfd:x", "08:01") is Backing.MAPPED  # a file of this name
    assert mapped(Machine(), "/dev/zero", "00:01") is Backing.MAPPED  # shared anonymous memory
    assert mapped(Machine(), "/dev/dri/card0", TMPFS) is Backing.MAPPED  # a device
    assert mapped(Machine(), "/var/lib/base.db", "08:01") is Backing.MAPPED


def test_mappings_that_are_older_than_the_call_say_nothing() -> None:
    machine = Machine()
    later_ns = time.monotonic_ns() + 10**12
    machine.account.apply(event(EventCode.REGION_ADD, Function.MMAP, AT, PAGE, time_ns=later_ns))
    machine.account.apply(event(EventCode.REGION_ADD, Function.SHMAT, AT + PAGE, time_ns=later_ns))
    machine.mappings = (mapping(AT, PAGE, "/memfd:x"), mapping(AT + PAGE, PAGE, "/SYSV00000000"))
    machine.account.look()
    assert machine.held(Backing.MAPPED) == [(AT, PAGE)]
    assert machine.account.unsized == 1
    assert machine.account.next_look_s() is not None


def test_a_segment_whose_size_is_never_known() -> None:
    """Its process has ended: that is counted, and no size is made up."""
    machine = Machine()
    machine.account.apply(event(EventCode.REGION_ADD, Function.SHMAT, AT))
    machine.account.look()
    assert machine.account.unsized == 1
    assert machine.held(Backing.SYSV) == []


def test_a_segment_that_was_unmapped_meanwhile() -> None:
    machine = Machine()
    machine.account.apply(event(EventCode.REGION_ADD, Function.SHMAT, AT))
    machine.mappings = (mapping(AT + PAGE, PAGE, "/SYSV00000000"),)  # another one
    machine.account.look()
    assert machine.account.unsized == 0
    assert machine.held(Backing.SYSV) == []


def test_a_segment_that_is_detached_before_its_size_is_known() -> None:
    machine = Machine()
    machine.account.apply(event(EventCode.REGION_ADD, Function.SHMAT, AT))
    machine.account.apply(event(EventCode.REGION_RELEASE, Function.SHMDT, AT))
    assert machine.account.unsized == 0
    machine.account.apply(event(EventCode.REGION_RESTORE, Function.SHMDT, AT))  # it failed
    assert machine.account.unsized == 1


def test_a_detached_segment_leaves_others_at_its_place_alone() -> None:
    machine, size = Machine(), 8 * PAGE
    machine.account.apply(event(EventCode.REGION_ADD, Function.SHMAT, AT))
    machine.mappings = (mapping(AT, size, "/SYSV00000000"),)
    machine.account.look()
    assert machine.held(Backing.SYSV) == [(AT, size)]
    inside = AT + 4 * PAGE
    machine.account.apply(event(EventCode.REGION_ADD, Function.MMAP, inside, PAGE))
    machine.account.apply(event(EventCode.REGION_RELEASE, Function.SHMDT, AT))
    assert machine.held(Backing.SYSV) == []
    assert machine.held(Backing.MAPPED) == [(inside, PAGE)]
    machine.account.apply(event(EventCode.REGION_RESTORE, Function.SHMDT, AT))
    assert machine.held(Backing.SYSV) == [(AT, 4 * PAGE), (inside + PAGE, 3 * PAGE)]


def test_a_segment_in_parts() -> None:
    machine = Machine()
    machine.account.apply(event(EventCode.REGION_ADD, Function.SHMAT, AT))
    machine.mappings = (
        mapping(AT, PAGE, "/SYSV00000000"),
        mapping(AT + 3 * PAGE, PAGE, "/SYSV00000000", offset=3 * PAGE),
        mapping(AT + 8 * PAGE, PAGE, "/SYSV00000000", inode=6),  # another segment
    )
    machine.account.look()
    assert machine.held(Backing.SYSV) == [(AT, PAGE), (AT + 3 * PAGE, PAGE)]
    freed = machine.account.mapped.freed(Backing.SYSV)
    assert freed[7].bytes == 2 * PAGE  # the hole


def test_mremap_moves_what_it_is() -> None:
    machine = Machine()
    assert mapped(machine, "/memfd:x", "00:01") is Backing.SHARED_FILE
    machine.account.apply(event(EventCode.REGION_RELEASE, Function.MREMAP, AT, PAGE))
    machine.account.apply(event(EventCode.REGION_ADD, Function.MREMAP, AT + 9 * PAGE, 2 * PAGE))
    assert machine.held(Backing.SHARED_FILE) == [(AT + 9 * PAGE, 2 * PAGE)]
    assert machine.held(Backing.MAPPED) == []


def test_mremap_moves_a_segment_whose_size_is_not_known() -> None:
    machine, there = Machine(), AT + 64 * PAGE
    machine.account.apply(event(EventCode.REGION_ADD, Function.SHMAT, AT))
    machine.account.apply(event(EventCode.REGION_RELEASE, Function.MREMAP, AT, PAGE))
    machine.account.apply(event(EventCode.REGION_ADD, Function.MREMAP, there, PAGE))
    machine.mappings = (mapping(there, PAGE, "/SYSV00000000"),)
    machine.account.look()
    assert machine.held(Backing.SYSV) == [(there, PAGE)]
    assert machine.held(Backing.MAPPED) == []
    machine.account.apply(event(EventCode.REGION_RELEASE, Function.SHMDT, there))
    assert machine.held(Backing.SYSV) == []


def test_the_break_is_not_moved_by_pages() -> None:
    machine = Machine()
    for start, size in ((100, 50), (150, 5000), (5150, 1)):
        machine.account.apply(event(EventCode.REGION_ADD, Function.BRK, start, size))
    machine.account.apply(event(EventCode.REGION_RELEASE, Function.BRK, 200, 4951))
    assert machine.held(Backing.BREAK) == [(100, 50), (150, 50)]


def test_mappings_are_read_only_where_something_is_not_known() -> None:
    machine = Machine()
    machine.account.look()
    machine.account.apply(event(EventCode.REGION_ADD, Function.BRK, 100, 50))
    machine.account.apply(event(EventCode.REGION_ADD, Function.MMAP, AT, PAGE))
    machine.account.apply(event(EventCode.REGION_RELEASE, Function.MUNMAP, AT, PAGE))
    machine.account.look()
    assert machine.reads == 0
    machine.account.apply(event(EventCode.REGION_ADD, Function.MMAP, AT, PAGE))
    machine.mappings = (mapping(AT, PAGE, "/memfd:x"),)
    machine.account.look()
    machine.account.look()
    assert machine.reads == 1


def test_looks_are_some_time_apart() -> None:
    machine = Machine()
    machine.account.apply(event(EventCode.REGION_ADD, Function.SHMAT, AT))
    machine.account.look_if_due()
    machine.account.look_if_due()
    assert machine.reads == 1


def test_calls_that_are_not_asked_for() -> None:
    machine = Machine(least=2 * PAGE)
    machine.account.apply(event(EventCode.REGION_ADD, Function.BRK, 100, PAGE))
    machine.account.apply(event(EventCode.REGION_ADD, Function.SHMAT, AT))
    machine.mappings = (mapping(AT, PAGE, "/SYSV00000000"),)
    machine.account.look()
    assert machine.held(Backing.BREAK) == machine.held(Backing.SYSV) == []
    assert machine.account.unsized == 0
