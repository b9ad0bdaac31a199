"""Walks of stacks by the BPF programs: from registers and memory to frames."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from leaktrace.abi import process as abi
from leaktrace.bpf.maps import Map
from leaktrace.process.kernel_tables import LATE_OBJECTS, KernelTables, Moment
from leaktrace.process.probes.allocators import (
    ANY_ENTRY_PROGRAM,
    HEAP,
    POINT_PROGRAM,
    RETURN_PROGRAM,
)
from leaktrace.unwind.layout import UnwindLayout, Update
from leaktrace.unwind.placed import MAX_KNOWN_OBJECTS, Capacity
from walker.machine import PT_REGS, Machine, Memory, Run

# Where the kernel puts the trampoline of return probes, as leaktrace assumes before it looks.
TRAMPOLINE = (1 << 47) - 2 * 4096
THREAD = 100 << 32 | 101
FAULT_PROGRAM = "on_fault"
TABLE_MAPS = ("unwind_rows", "unwind_pages", "unwind_mappings", "unwind_list", "known_objects")
CACHE_MAPS = ("recent_rows", "known_starts", "known_stacks")
_FAULT = np.dtype([("regs", PT_REGS), ("sample_period", "<u8"), ("address", "<u8")])
_USER_CODE = 0x33
_BLOCK = 0x10000  # the address that the first recorded call returns


class Registers(NamedTuple):
    """Where a walk starts."""

    ip: int
    sp: int
    bp: int


class Caller(NamedTuple):
    """How the caller of a function is found at a point inside of it, as struct point says it."""

    frame_register: int  # 4 rsp, 5 rbp
    frame_offset: int  # from there to the CFA
    rbp_offset: int  # from the CFA to the caller's rbp, or abi.RBP_*


class Start(StrEnum):
    """Which program starts the walk."""

    FAULT = "page fault"  # at any instruction
    RETURN = "return probe"  # at a return address
    POINT = "point"  # above a function that runs


class Origin(NamedTuple):
    """Where and how a walk starts."""

    start: Start
    registers: Registers
    caller: Caller | None = None  # of a point


class NotRecordedError(Exception):
    """The programs have recorded no stack."""


class Walked(NamedTuple):
    """A stack as the programs recorded it."""

    id: int
    ips: tuple[int, ...]
    result: abi.WalkResult
    end: abi.StackEndCode
    is_known: bool  # found without a walk
    run: Run


class Walks:
    """Walks with one set of unwind tables."""

    def __init__(self, library: Path, capacity: int = 4096) -> None:
        """`capacity` of the maps that records go to."""
        self.machine = Machine(library)
        self._block = _BLOCK
        for name in ("allocations", "sites", "stacks", "threads"):
            self.machine.set_capacity(name, capacity)
        self.machine.set_capacity("late_objects", LATE_OBJECTS)
        if self.machine.has("walk_parts"):
            self.machine.set_program("walk_parts", 0, "walk_part")
        self._points = self.machine.array("points", abi.POINT, 1)
        self._session = self.machine.array("session", abi.SESSION, 1)
        self._losses = self.machine.array("losses", abi.U64)
        self._tallies = self.machine.array("tallies", abi.U64)
        self._tables: KernelTables | None = None
        self.sees_loads = False  # of the lists that are written
        self.forget()

    # --- tables ---

    def install(self, layout: UnwindLayout, update: Update, trampoline: int = TRAMPOLINE) -> None:
        """Install tables, written as leaktrace writes them to the kernel."""
        capacity = layout.reserve(spare_rows=0)
        self.machine.clear(TABLE_MAPS)
        self._tables = self._make_tables(capacity, update.mappings.dtype)
        self.write(update, trampoline)

    def write(self, update: Update, trampoline: int = TRAMPOLINE) -> None:
        """Install a further update."""
        assert self._tables is not None, "nothing is installed"
        self._tables.write(update, Moment(sees_loads=self.sees_loads), trampoline)

    def _make_tables(self, capacity: Capacity, mapping: np.dtype[Any]) -> KernelTables:
        def array(name: str, dtype: np.dtype[Any], room: int = 0) -> Map:
            return cast(Map, _ArrayMap(self.machine.array(f"unwind_{name}", dtype, room)))

        self.machine.set_capacity("known_objects", MAX_KNOWN_OBJECTS)
        return KernelTables(
            rows=array("rows", abi.U64, capacity.rows),
            pages=array("pages", abi.U32, capacity.pages),
            mappings=array("mappings", mapping, capacity.mappings),
            list=array("list", abi.UNWIND_LIST, abi.UNWIND_LISTS),
            known=cast(Map, _HashMap(self.machine, "known_objects")),
            late=cast(Map, None),  # only cleared, for another process
        )

    # --- walks ---

    def forget(self) -> None:
        """Forget all but the tables: the next walk is the first."""
        kept = {*TABLE_MAPS, "walk_parts"}
        self.machine.clear(except_for=kept)
        self._session["armed"] = 1

    def walk(self, origin: Origin, memory: Memory) -> Walked:
        """Walk a stack. A page fault drops known stacks, the other origins do not.

        Raises NotRecordedError.
        """
        self.machine.set_memory(memory)
        if origin.start is Start.FAULT:
            self.forget()
        known = int(self._tallies[abi.Tally.KNOWN_STACKS])
        match origin.start:
            case Start.FAULT:
                run = self._fault(origin.registers)
                stack_id = self.machine.oldest_key("sites")
            case Start.RETURN:
                run = self._return(origin.registers)
                stack_id = self._recorded()
            case Start.POINT:
                assert origin.caller is not None
                run = self._point(origin.registers, origin.caller)
                stack_id = self._recorded()
        stack = None
        if stack_id is not None:
            stack = self.machine.lookup("stacks", stack_id, abi.STACK)
        if stack_id is None or stack is None:
            raise NotRecordedError(str(self.losses()))
        assert stack["frame_count"] <= abi.MAX_FRAMES
        return Walked(
            stack_id,
            tuple(stack["pc"][: stack["frame_count"]].tolist()),
            abi.WalkResult(stack["result"]),
            abi.StackEndCode(stack["end"]),
            int(self._tallies[abi.Tally.KNOWN_STACKS]) > known,
            run,
        )

    def losses(self) -> dict[str, int]:
        """What was lost since `forget`, by kind; walks by their result."""
        counts = self._losses.tolist()
        names = [kind.name for kind in abi.LossKind][: abi.LossKind.WALKS]
        names += [f"WALK_{result.name}" for result in abi.WalkResult]
        return {name: count for name, count in zip(names, counts, strict=True) if count}

    def _fault(self, registers: Registers) -> Run:
        context = np.zeros(1, _FAULT)
        _set(context["regs"], registers, cs=_USER_CODE)
        return self.machine.run(FAULT_PROGRAM, context, thread=THREAD)

    def _return(self, registers: Registers) -> Run:
        """malloc, from its entry to its return: `registers` are those after the return."""
        entry, back = np.zeros(1, PT_REGS), np.zeros(1, PT_REGS)
        _set(entry, registers._replace(sp=registers.sp - 8), di=1)
        self.machine.run(ANY_ENTRY_PROGRAM, entry, thread=THREAD, cookie=HEAP[0].cookie)
        _set(back, registers, ax=self._next_block())
        return self.machine.run(RETURN_PROGRAM, back, thread=THREAD)

    def _point(self, registers: Registers, caller: Caller) -> Run:
        point = self._points[0]
        point["function"], point["action"] = abi.Function.MALLOC, abi.Action.BOTH
        point["condition"] = abi.POINT_ALWAYS
        point["frame_register"], point["frame_offset"] = caller[:2]
        point["rbp_offset"] = caller.rbp_offset
        point["size"] = (abi.PlaceKind.CONSTANT, 0, 1)
        point["result"] = (abi.PlaceKind.REGISTER, 0, 0)
        context = np.zeros(1, PT_REGS)
        _set(context, registers, ax=self._next_block())
        return self.machine.run(POINT_PROGRAM, context, thread=THREAD)

    def _next_block(self) -> int:
        self.machine.clear(["allocations"])
        self._block += 16
        return self._block

    def _recorded(self) -> int | None:
        found = self.machine.lookup("allocations", self._block, abi.ALLOCATION)
        return None if found is None else int(found["stack_id"])


class _ArrayMap:
    """An array map with the methods of bpf.maps.Map that tables are written by."""

    def __init__(self, values: NDArray[Any]) -> None:
        self._values = values

    def update(self, index: int, value: NDArray[Any]) -> None:
        self._values[index] = value[0]

    def write_mapped(self, start: int, values: NDArray[np.uint64]) -> None:
        self._values[start : start + len(values)] = values


class _HashMap:
    """A hash map with its method `update`."""

    def __init__(self, machine: Machine, name: str) -> None:
        self._machine, self._name = machine, name

    def update(self, key: int, value: NDArray[Any]) -> None:
        self._machine.update(self._name, key, value)


def _set(context: NDArray[Any], registers: Registers, **others: int) -> None:
    for name, value in {**registers._asdict(), **others}.items():
        context[name] = np.uint64(value)
