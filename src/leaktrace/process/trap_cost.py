"""What a probe's trap into the kernel costs, measured on this machine: an empty probe on a function
of leaktrace's own C library."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from leaktrace.bpf import links, support
from leaktrace.elf.object import ElfObject
from leaktrace.process.probes.placement import place_in
from leaktrace.targets.mappings import read_mappings

_CALIBRATION_CALLS = 2_000
_CALIBRATION_ROUNDS = 5
_CALIBRATION_FUNCTIONS = ("getenv", "atoi", "strtoul", "ffsll", "labs")


@dataclass(frozen=True)
class TrapCost:
    """Nanoseconds per hit of a probe, without the program that the probe runs."""

    entry_ns: float  # at an instruction that the kernel emulates
    return_ns: float
    stepping_ns: float  # in addition, at one that it executes out of line


def measure_traps(*, with_stepping: bool) -> TrapCost:
    """Time an empty probe, an empty return probe and, `with_stepping`, one that is single-stepped.

    Takes 80 ms, with stepping 200 ms. Raises OSError or LeaktraceError when a probe can't be timed.
    """
    with _own_libc() as elf:
        program = support.load_empty_program(links.uprobe_links().attach_type)

        def probe_ns(*, emulated: bool, is_return: bool = False) -> float:
            name, offset = _function(elf, emulated=emulated)
            call = getattr(ctypes.CDLL(None), name)
            call.argtypes = (ctypes.c_char_p,)
            path = f"/proc/self/fd/{elf.descriptor}"
            probed = _timed_with_probe(call, program, path, offset, is_return=is_return)
            return max(probed - _time(call), 0.0)

        try:
            entry = probe_ns(emulated=True)
            # A return probe includes the trap at the entry that sets it up.
            both = probe_ns(emulated=True, is_return=True)
            stepped = probe_ns(emulated=False) if with_stepping else entry
        finally:
            os.close(program)
    return TrapCost(
        entry_ns=entry, return_ns=max(both - entry, 0.0), stepping_ns=max(stepped - entry, 0.0)
    )


def _own_libc() -> ElfObject:
    names = ("libc.", "libc-", "ld-musl")
    for mapping in read_mappings(os.getpid()):
        if mapping.is_executable and Path(mapping.path).name.startswith(names):
            return ElfObject.open(mapping.path)
    raise OSError("the C library of this process was not found")


def _function(elf: ElfObject, *, emulated: bool) -> tuple[str, int]:
    """A function's name, and the file offset of an instruction in it that the kernel emulates, or
    does not emulate. Raises OSError when there is none."""
    for name, function in elf.functions(_CALIBRATION_FUNCTIONS).items():
        placement = place_in(elf, function, 1)
        entry = elf.vaddr_to_offset(function.vaddr)
        if function.is_ifunc or entry is None:
            continue
        if emulated and placement.emulated:
            return name, entry + placement.offset
        # The first instruction is not emulated: one that is comes later, or there is none.
        if not emulated and (placement.offset > 0 or not placement.emulated):
            return name, entry
    raise OSError("no function to calibrate with")


def _timed_with_probe(
    call: Callable[[bytes], object], program: int, path: str, offset: int, *, is_return: bool
) -> float:
    if links.has_uprobe_multi():  # faster to close than perf events
        link = links.attach_uprobes(
            program,
            path,
            [offset],
            [0],
            pid=os.getpid(),
            is_return=is_return,
        )
        descriptors = [link]
    else:
        descriptors = links.attach_uprobe_event(
            program, path, offset, 0, pid=os.getpid(), is_return=is_return
        )
    try:
        return _time(call)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _time(call: Callable[[bytes], object]) -> float:
    """Nanoseconds per call, of the fastest round: it was disturbed least."""
    best = float("inf")
    for _ in range(_CALIBRATION_ROUNDS):
        started = time.perf_counter_ns()
        for _ in range(_CALIBRATION_CALLS):
            call(b"1")
        best = min(best, (time.perf_counter_ns() - started) / _CALIBRATION_CALLS)
    return best
