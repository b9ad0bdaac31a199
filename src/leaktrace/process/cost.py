"""What tracing costs: the traced process, and leaktrace itself.

The kernel measures how long the BPF programs run (bpf(2), BPF_ENABLE_STATS), which itself costs a
little, so it is only asked to where somebody wants to know. What a probe costs besides, the trap
into the kernel, is measured once on this very machine: an empty probe on a function of leaktrace's
own C library.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from leaktrace.abi.process import Tally
from leaktrace.bpf import links, support, syscalls
from leaktrace.elf.object import ElfObject
from leaktrace.errors import LeaktraceError
from leaktrace.model import Cost
from leaktrace.process.probes.allocators import POINT_PROGRAM, RETURN_PROGRAM
from leaktrace.process.probes.placement import place_in
from leaktrace.process.program import Program
from leaktrace.targets.mappings import read_mappings
from leaktrace.targets.process import Process

_CPUCLOCK_SCHED = 2
_PAGE_BYTES = os.sysconf("SC_PAGESIZE")
_CALIBRATION_CALLS = 2_000
_CALIBRATION_ROUNDS = 5
_CALIBRATION_FUNCTIONS = ("getenv", "atoi", "strtoul", "ffsll", "labs")


@dataclass(frozen=True)
class TrapCost:
    """Nanoseconds that a hit of a probe takes, without the program that it runs."""

    entry_ns: float  # at an instruction that the kernel emulates
    return_ns: float
    stepping_ns: float  # more, at one that it executes out of line


@dataclass(frozen=True)
class _Reading:
    time_ns: int
    own_cpu_s: float
    target_cpu_s: float | None
    run_time_ns: int
    entries: int
    returns: int
    faults: int  # happen anyway: no trap of ours leads there
    known_stacks: int
    walked_stacks: int


class CostMeter:
    """Measures from one report to the next."""

    def __init__(
        self,
        program: Program,
        process: Process,
        stepped_share: Callable[[], float],
        *,
        measure_programs: bool,
    ) -> None:
        """`stepped_share`: of the entries, those at instructions that the kernel can't emulate;
        `measure_programs`: ask the kernel for the programs' run times."""
        self._program = program
        self._process = process
        self._stepped_share = stepped_share
        self._stats: int | None = None
        self._trap: TrapCost | None = None
        if measure_programs:
            try:
                self._stats = syscalls.enable_run_time_stats()
                self._trap = measure_traps(with_stepping=stepped_share() > 0)
            except (OSError, LeaktraceError):
                self._stats = None  # not permitted, or too old: own figures all the same
        self._last = self._read()

    def measure(self) -> Cost:
        """The cost since the last call."""
        now, last = self._read(), self._last
        self._last = now
        elapsed_s = max((now.time_ns - last.time_ns) / 1e9, 1e-9)
        known = now.known_stacks - last.known_stacks
        stacks = known + now.walked_stacks - last.walked_stacks
        own = Cost(
            own_cpu_share=(now.own_cpu_s - last.own_cpu_s) / elapsed_s,
            own_resident_bytes=_own_resident_bytes(),
            known_stack_share=known / stacks if stacks else None,
        )
        if self._stats is None or self._trap is None:
            return own
        entries, returns = now.entries - last.entries, now.returns - last.returns
        events = entries + returns + now.faults - last.faults
        programs_s = (now.run_time_ns - last.run_time_ns) / 1e9
        entry_ns = self._trap.entry_ns + self._stepped_share() * self._trap.stepping_ns
        traps_s = (entries * entry_ns + returns * self._trap.return_ns) / 1e9
        share = None
        if now.target_cpu_s is not None and last.target_cpu_s is not None:
            target_s = now.target_cpu_s - last.target_cpu_s
            # What a trap takes is an estimate: never more than the process used besides.
            traps_s = min(traps_s, max(target_s - programs_s, 0.0))
            if target_s > 0:  # one that didn't run has nothing to share
                share = min((programs_s + traps_s) / target_s, 1.0)
        return replace(
            own,
            events_per_s=events / elapsed_s,
            programs_s_per_s=programs_s / elapsed_s,
            traps_s_per_s=traps_s / elapsed_s,
            target_share=share,
        )

    def close(self) -> None:
        if self._stats is not None:
            os.close(self._stats)
            self._stats = None

    def _read(self) -> _Reading:
        run_time_ns = entries = returns = faults = 0
        if self._stats is not None:
            for name, descriptor in self._program.programs.items():
                info = syscalls.program_info(descriptor)
                run_time_ns += info.run_time_ns
                if name == RETURN_PROGRAM:
                    returns += info.run_count
                elif name == POINT_PROGRAM or name.startswith("enter_"):
                    entries += info.run_count
                elif name == "on_fault":
                    faults += info.run_count
        tallies = {tally: self._tally(tally) for tally in Tally}
        return _Reading(
            time_ns=time.monotonic_ns(),
            own_cpu_s=time.process_time(),
            target_cpu_s=_cpu_s(self._process),
            run_time_ns=run_time_ns,
            entries=entries,
            returns=returns,
            faults=faults,
            known_stacks=tallies[Tally.KNOWN_STACKS],
            walked_stacks=tallies[Tally.WALKED_STACKS],
        )

    def _tally(self, tally: Tally) -> int:
        by_cpu = self._program.tallies.lookup(tally)
        assert by_cpu is not None  # an array has all its entries
        return int(by_cpu.sum())


def _cpu_s(process: Process) -> float | None:
    """CPU time of the target in seconds, threads that have ended included; None when it has ended.

    By its clock and not /proc/PID/stat, which counts in ticks of 10 ms (clock_getcpuclockid(3);
    the number is made as include/linux/posix-timers_types.h says).
    """
    try:
        return time.clock_gettime(~process.pid << 3 | _CPUCLOCK_SCHED)
    except OSError:
        return None


def _own_resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES


def measure_traps(*, with_stepping: bool) -> TrapCost:
    """Time an empty probe, an empty return probe and, if that matters, one that is single-stepped,
    on functions of our own C library.

    Takes 80 ms, and with stepping 200. Raises OSError or LeaktraceError where that can't be done.
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
    raise OSError("the C library of this process is not found")


def _function(elf: ElfObject, *, emulated: bool) -> tuple[str, int]:
    """A function, and where in the file an instruction is that the kernel emulates, or doesn't."""
    for name, function in elf.functions(_CALIBRATION_FUNCTIONS).items():
        placement = place_in(elf, function, 1)
        entry = elf.vaddr_to_offset(function.vaddr)
        if function.is_ifunc or entry is None:
            continue
        if emulated and placement.emulated:
            return name, entry + placement.offset
        # What is emulated comes later, or not at all: not the first instruction.
        if not emulated and (placement.offset > 0 or not placement.emulated):
            return name, entry
    raise OSError("no function to calibrate with")


def _timed_with_probe(
    call: Callable[[bytes], object], program: int, path: str, offset: int, *, is_return: bool
) -> float:
    if links.has_uprobe_multi():  # closed faster than perf events
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
    """Nanoseconds a call: the best of some rounds, which is the least disturbed."""
    best = float("inf")
    for _ in range(_CALIBRATION_ROUNDS):
        started = time.perf_counter_ns()
        for _ in range(_CALIBRATION_CALLS):
            call(b"1")
        best = min(best, (time.perf_counter_ns() - started) / _CALIBRATION_CALLS)
    return best
