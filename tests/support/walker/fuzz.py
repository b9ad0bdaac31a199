"""Walks of made-up and damaged stacks, and what must hold for each of them.

`make fuzz` runs this for a while, with the programs compiled for AddressSanitizer and
UndefinedBehaviorSanitizer; the tests do so for seconds. A case is made from its seed alone:

    python -m walker.fuzz --library FILE --first-seed 17 --cases 1

It does not import `leaktrace.process.program`, which needs capstone: that loads its library in a
way (RTLD_DEEPBIND) that AddressSanitizer refuses.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from random import Random

import numpy as np

from leaktrace.abi import process as abi
from leaktrace.abi.process import StackEndCode
from walker.cases import Process, Stack, make_process, make_stack
from walker.machine import Memory, Run
from walker.reference import COPIED_BELOW, Expected, Reference
from walker.walks import (
    CACHE_MAPS,
    TRAMPOLINE,
    Caller,
    NotRecordedError,
    Origin,
    Registers,
    Start,
    Walked,
    Walks,
)

COPY_BYTES = 1024  # of the stack at once (STACK_COPY_WORDS)
WINDOW_BYTES = 4096  # where a stack may be known (STACK_WINDOW_WORDS)
MOST_READS_PER_FRAME = 6
MOST_SWITCHES = 12  # of stacks by Go, in one walk
MOST_LOOKUPS_PER_FRAME = 64
_KNOWN_STEPS = 12
_RSP = 4  # as instructions number it


class Fuzzer:
    """Two machines with the same tables: one remembers what was walked, the other never does."""

    def __init__(self, library: Path, parts: int) -> None:
        """A walk takes at most so many `parts`: programs that follow each other by tail call."""
        self._warm, self._cold = Walks(library), Walks(library)
        self._parts = parts
        self.counts: Counter[str] = Counter()

    def check(self, random: Random) -> None:
        """One process, and many walks in it."""
        process = make_process(random)
        self._warm.sees_loads = self._cold.sees_loads = random.random() < 0.5
        self._install(process)
        stack = make_stack(random, process)
        for damage in range(3):
            self._check_walk(random, process, stack, damage)
        self._check_known(random, process, make_stack(random, process, 50))
        self._check_damaged_tables(random, process, stack)

    def _install(self, process: Process) -> None:
        for walks in (self._warm, self._cold):
            walks.forget()
            walks.install(process.layout, process.update)

    # --- a walk and the reference ---

    def _check_walk(self, random: Random, process: Process, stack: Stack, damage: int) -> None:
        memory = stack.memory(process).changed(
            {stack.address(random): stack.value(random, process) for _ in range(damage)}
        )
        registers = stack.registers
        if damage:
            registers = Registers(
                *(
                    stack.value(random, process) if random.random() < 0.1 else value
                    for value in registers
                )
            )
        self._walk(self._cold, process, Origin(Start.FAULT, registers), memory)

    def _walk(self, walks: Walks, process: Process, origin: Origin, memory: Memory) -> Walked:
        """Walk, and compare with the reference."""
        reference = Reference(process.arrays, memory, TRAMPOLINE, sees_loads=walks.sees_loads)
        expected = reference.walk(origin)
        walked = walks.walk(origin, memory)
        check_bounds(walked.run, self._parts)
        self.counts[walked.result.name] += 1
        self.counts["switched"] += reference.has_switched
        if walks is self._warm:  # of stacks with the same frames the first's result is kept
            expected = expected._replace(result=walked.result)
        assert Expected(walked.ips, walked.result, walked.end) == expected
        check_reads(walked.run, reference.read_at, origin)
        if walked.end is StackEndCode.COMPLETE:
            check_mapped(process, walked.ips)
        return walked

    # --- known stacks ---

    def _check_known(self, random: Random, process: Process, stack: Stack) -> None:
        """The stack is that of a first walk, independently of earlier walks."""
        origin = _origin(random, stack)
        variants = [(origin, stack.memory(process))]
        for _ in range(_KNOWN_STEPS):
            if random.random() < 0.4:
                variants.append(_variant(random, process, stack, *random.choice(variants)))
            chosen, memory = random.choice(variants)
            self._cold.forget()
            first = self._walk(self._cold, process, chosen, memory)
            again = self._walk(self._warm, process, chosen, memory)
            assert not first.is_known
            assert (first.id, first.ips, first.end) == (again.id, again.ips, again.end)
            self.counts["known"] += again.is_known
            if random.random() < 0.3:
                _splice(random, self._warm)
            if random.random() < 0.1:
                self._change_mappings(random, process)

    def _change_mappings(self, random: Random, process: Process) -> None:
        """Install another list of mappings: some are removed, or added again."""
        count = random.randint(1, len(process.mappings))
        update = process.layout.update(random.sample(process.mappings, count))
        process.arrays.write(update)
        self._warm.write(update)
        self._cold.write(update)

    # --- damaged tables ---

    def _check_damaged_tables(self, random: Random, process: Process, stack: Stack) -> None:
        """The walk ends within bounds, whatever frames it finds."""
        machine = self._cold.machine
        self._cold.forget()
        session = machine.array("session", abi.SESSION)
        unwind_list = machine.array("unwind_list", abi.UNWIND_LIST)
        session["epoch"] = random.randint(0, 3)
        for _ in range(random.randint(1, 20)):
            name = random.choice(("rows", "pages", "mappings", "list", "late"))
            words = machine.words({"late": "late_objects"}.get(name, f"unwind_{name}"))
            used = {"rows": 60, "pages": 60, "mappings": 4, "list": 3}.get(name, 16)
            at = random.randrange(used), random.randrange(words.shape[1])
            if random.random() < 0.5:
                words[at] ^= np.uint64(1 << random.randrange(64))
            else:
                words[at] = np.uint64(stack.value(random, process))
        if random.random() < 0.5:  # with a current list, or most walks would end early
            unwind_list["generation"] = 0
            unwind_list["place"][0] = 1 + random.randrange(2)
        memory = stack.memory(process)
        with suppress(NotRecordedError):
            walked = self._cold.walk(Origin(Start.RETURN, stack.registers), memory)
            check_bounds(walked.run, self._parts, are_tables_sound=False)
            self.counts["damaged"] += 1
        self._cold.install(process.layout, process.update)


def check_bounds(run: Run, parts: int, *, are_tables_sound: bool = True) -> None:
    """The limits of a program's work, for any input."""
    assert run.read_count <= MOST_READS_PER_FRAME * abi.MAX_FRAMES
    assert run.lookups <= MOST_LOOKUPS_PER_FRAME * abi.MAX_FRAMES
    assert run.tail_calls < parts + MOST_SWITCHES
    assert not are_tables_sound or run.missed_lookups == 0
    sizes = run.reads["bytes"].tolist()
    assert all(size <= WINDOW_BYTES for size in sizes)


def check_reads(run: Run, expected: set[int], origin: Origin) -> None:
    """Copies begin where the reference reads, or at the stack pointer, to check for a known
    stack."""
    stack = origin.registers.sp
    if origin.caller:
        stack += origin.caller.frame_offset - COPIED_BELOW
    for address, size, _ in run.reads.tolist():
        is_window = origin.start is not Start.FAULT and address == stack
        assert is_window or address in expected, hex(address)
        assert size <= (WINDOW_BYTES if is_window else COPY_BYTES)


def check_mapped(process: Process, ips: tuple[int, ...]) -> None:
    """No frame of a complete stack is outside of what is mapped as code."""
    for ip in ips:
        is_trampoline = TRAMPOLINE <= ip < TRAMPOLINE + 64
        # A return address may be the first one behind the code of a call.
        assert is_trampoline or process.is_mapped(ip) or process.is_mapped(ip - 1), hex(ip)


def _origin(random: Random, stack: Stack) -> Origin:
    """A start at the stack's first frame, or at a point in a function that it calls."""
    ip, sp, bp = stack.registers
    if random.random() < 0.5:
        return Origin(Start.RETURN, stack.registers)
    below = 8 * random.randint(2, 8)
    rbp_offset = random.choice((abi.RBP_UNCHANGED, abi.RBP_LOST, -16))
    stack.put(sp - 8, ip)
    if rbp_offset == -16:
        stack.put(sp - 16, bp)
    registers = Registers(ip, sp - below, bp)
    return Origin(Start.POINT, registers, Caller(_RSP, below, rbp_offset))


def _variant(
    random: Random, process: Process, stack: Stack, origin: Origin, memory: Memory
) -> tuple[Origin, Memory]:
    """The same stack with a few other words, or other registers."""
    if random.random() < 0.3:
        ip, sp, bp = origin.registers
        others = (
            Registers(ip, sp, stack.value(random, process)),
            Registers(random.choice(process.pcs), sp, bp),
            Registers(ip, sp + 8 * random.randint(-2, 2), bp),
        )
        return origin._replace(registers=random.choices(others, (3, 1, 1))[0]), memory
    words = {
        stack.address(random): stack.value(random, process) for _ in range(random.randint(1, 3))
    }
    return origin, memory.changed(words)


def _splice(random: Random, walks: Walks) -> None:
    """Entries of the caches that two CPUs wrote at the same time: each word is of either."""
    for name in CACHE_MAPS:
        words = walks.machine.words(name)
        written = np.flatnonzero(words[:, 0])
        if not len(written):
            continue
        for _ in range(3):
            one, other = (random.choice(written.tolist()) for _ in range(2))
            for word in range(words.shape[1]):
                if random.random() < 0.5:
                    words[one, word] = words[other, word]


def main() -> None:
    """Run cases until their number or the time is up."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--library", type=Path, required=True)
    parser.add_argument("--parts", type=int, default=8)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--cases", type=int)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    words = parser.parse_args()
    fuzzer = Fuzzer(words.library, words.parts)
    until = time.monotonic() + words.seconds
    done = 0
    for seed in itertools.count(words.first_seed):
        if done == words.cases or time.monotonic() > until:
            break
        try:
            fuzzer.check(Random(seed))
        except BaseException:
            print(f"this was --first-seed {seed}", flush=True)
            raise
        done += 1
    print(f"{done} cases from seed {words.first_seed} on: {dict(fuzzer.counts)}")


if __name__ == "__main__":
    main()
