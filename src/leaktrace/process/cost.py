"""What tracing a process costs: to the process, and to leaktrace itself.

To the process, a probe costs the run time of its BPF program, which the kernel measures, and the
trap into the kernel, which process/trap_cost.py measures once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from leaktrace.abi.process import Tally
from leaktrace.errors import LeaktraceError
from leaktrace.model import Cost
from leaktrace.process.probes.allocators import POINT_PROGRAM, RETURN_PROGRAM
from leaktrace.process.program import FAULT_PROGRAM, SYSTEM_CALL_TRACEPOINTS, Program
from leaktrace.process.trap_cost import TrapCost, measure_traps
from leaktrace.targets.process import Process
from leaktrace.tracing.cost import OwnUse, ProgramTimes

_CPUCLOCK_SCHED = 2
# These run at each system call of every process, and are no share of the traced one's time.
_OF_THE_MACHINE = {f"at_{name}" for name in SYSTEM_CALL_TRACEPOINTS}


@dataclass(frozen=True)
class _Hits:
    """What the programs did since they were loaded."""

    run_time_ns: int = 0
    entries: int = 0
    returns: int = 0
    faults: int = 0  # page faults happen anyway: no trap of leaktrace's leads there

    def since(self, last: _Hits) -> _Hits:
        return _Hits(
            self.run_time_ns - last.run_time_ns,
            self.entries - last.entries,
            self.returns - last.returns,
            self.faults - last.faults,
        )


@dataclass(frozen=True)
class _Reading:
    own: OwnUse
    target_cpu_s: dict[int, float | None]  # by pid
    hits: _Hits
    known_stacks: int
    walked_stacks: int


class CostMeter:
    """Measures from one report to the next."""

    def __init__(
        self,
        program: Program,
        processes: Callable[[], Iterable[Process]],
        stepped_share: Callable[[], float],
        *,
        measure_programs: bool,
    ) -> None:
        """`processes` returns those that are traced; `stepped_share`: the share of entries at
        instructions that the kernel can't emulate; `measure_programs`: ask the kernel for the
        programs' run times."""
        self._program = program
        self._processes = processes
        self._stepped_share = stepped_share
        self._times: ProgramTimes | None = None
        self._trap: TrapCost | None = None
        if measure_programs:
            self._measure_programs()
        self._last = self._read()

    def _measure_programs(self) -> None:
        """Only leaktrace's own use is measured if the kernel is too old or refuses."""
        try:
            times = ProgramTimes(self._program.programs)
        except OSError:
            return
        try:
            self._trap = measure_traps(with_stepping=self._stepped_share() > 0)
        except (OSError, LeaktraceError):
            times.close()
        except BaseException:
            times.close()
            raise
        else:
            self._times = times

    def measure(self) -> Cost:
        """The cost since the last call."""
        now, last = self._read(), self._last
        self._last = now
        known = now.known_stacks - last.known_stacks
        stacks = known + now.walked_stacks - last.walked_stacks
        own = replace(
            now.own.cost_since(last.own), known_stack_share=known / stacks if stacks else None
        )
        if self._trap is None:
            return own
        target_s = _used_s(last.target_cpu_s, now.target_cpu_s)
        elapsed_s = now.own.elapsed_s_since(last.own)
        return self._with_programs(own, self._trap, now.hits.since(last.hits), target_s, elapsed_s)

    def _with_programs(
        self, own: Cost, trap: TrapCost, hits: _Hits, target_s: float | None, elapsed_s: float
    ) -> Cost:
        programs_s = hits.run_time_ns / 1e9
        entry_ns = trap.entry_ns + self._stepped_share() * trap.stepping_ns
        traps_s = (hits.entries * entry_ns + hits.returns * trap.return_ns) / 1e9
        share = None
        if target_s is not None:
            # The cost of a trap is an estimate: it can't exceed the CPU time that is left.
            traps_s = min(traps_s, max(target_s - programs_s, 0.0))
            if target_s > 0:  # a process that did not run has no time to share
                share = min((programs_s + traps_s) / target_s, 1.0)
        return replace(
            own,
            events_per_s=(hits.entries + hits.returns + hits.faults) / elapsed_s,
            programs_s_per_s=programs_s / elapsed_s,
            traps_s_per_s=traps_s / elapsed_s,
            target_share=share,
        )

    def close(self) -> None:
        """Stop measuring."""
        if self._times is not None:
            self._times.close()
            self._times = None

    def _read(self) -> _Reading:
        return _Reading(
            hits=self._hits(),
            own=OwnUse.now(),
            target_cpu_s={one.pid: _cpu_s(one) for one in self._processes()},
            known_stacks=self._tally(Tally.KNOWN_STACKS),
            walked_stacks=self._tally(Tally.WALKED_STACKS),
        )

    def _hits(self) -> _Hits:
        run_time_ns = entries = returns = faults = 0
        for name, use in ({} if self._times is None else self._times.read()).items():
            if name in _OF_THE_MACHINE:
                continue
            run_time_ns += use.run_time_ns
            if name == RETURN_PROGRAM:
                returns += use.run_count
            elif name == POINT_PROGRAM or name.startswith("enter_"):
                entries += use.run_count
            elif name == FAULT_PROGRAM:
                faults += use.run_count
        return _Hits(run_time_ns, entries, returns, faults)

    def _tally(self, tally: Tally) -> int:
        by_cpu = self._program.tallies.lookup(tally)
        assert by_cpu is not None  # an array has all its entries
        return int(by_cpu.sum())


def _used_s(before: dict[int, float | None], now: dict[int, float | None]) -> float | None:
    """CPU seconds between two readings; None if a process has ended meanwhile: what it used is not
    known, but what its probes cost is counted."""
    known = {pid: cpu_s for pid, cpu_s in now.items() if cpu_s is not None}
    if not known or not before.keys() <= known.keys():
        return None
    return sum(cpu_s - (before.get(pid) or 0.0) for pid, cpu_s in known.items())


def _cpu_s(process: Process) -> float | None:
    """CPU seconds of the target, including those of threads that have ended; None when the process
    has ended.

    Read from its clock, because /proc/PID/stat counts in ticks of 10 ms (clock_getcpuclockid(3);
    include/linux/posix-timers_types.h defines the clock's number).
    """
    try:
        return time.clock_gettime(~process.pid << 3 | _CPUCLOCK_SCHED)
    except OSError:
        return None
