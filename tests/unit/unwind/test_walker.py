"""The stack walk of the BPF programs, run in user space: tests/support/walker."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from harness.compiling import Compiler
from harness.lines import DEADLINE_S
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from unwind_walker import Arrays
from walker.build import SANITIZE, compile_programs
from walker.cases import CODE_START, STACK_START, process_of
from walker.fuzz import Fuzzer
from walker.machine import Memory
from walker.reference import Reference
from walker.steps import Recording, Tables, record
from walker.walks import (
    TRAMPOLINE,
    Caller,
    Origin,
    Registers,
    Start,
    Walked,
    Walks,
)

from leaktrace.abi import process as abi
from leaktrace.abi.process import Rule, SavedRbp, StackEndCode, WalkResult
from leaktrace.process.walkers import Walker
from leaktrace.unwind.rows import NoRule, Row

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="stacks are walked by tables on x86-64 only"
)

FUZZ_SECONDS = float(os.environ.get("LEAKTRACE_FUZZ_SECONDS", "0"))  # 0: a few cases
FEW_CASES = 50
KNOWN_SLOTS = 64  # words that decide a stack, at most: bpf/process/types.h
LAZY = ("-Wl,-z,lazy", "-fcf-protection=none", "-pthread")
BUILDS = {
    "omit-frame-pointer": ("-O2", "-fomit-frame-pointer"),
    "frame-pointer": ("-O2", "-fno-omit-frame-pointer", "-DFRAME_POINTER", "-no-pie"),
    "O0": ("-O0", "-DFRAME_POINTER"),
}
SCENARIOS = (  # of tests/programs/single_steps.c
    "kinds",
    "alternate",
    "thread",
    "deep 50",
    "deep 120",
    "generated",
    "vdso",
    "coroutine",
)
# Cases with stacks that can be known. In the others they have a signal's frame or a guessed one, or
# more words decide than are kept: two per frame, where frames are found by rbp.
KNOWN = {
    ("omit-frame-pointer", scenario) for scenario in ("deep 50", "deep 120", "vdso", "coroutine")
}
CASES = [
    *(("omit-frame-pointer", scenario) for scenario in SCENARIOS),
    *((build, scenario) for build in ("frame-pointer", "O0") for scenario in ("kinds", "deep 120")),
]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory, require_tool: Callable[[str], str]) -> Path:
    """The programs, with walks in eight parts."""
    require_tool("gcc")
    return compile_programs(tmp_path_factory.mktemp("walker"), Walker.TAIL_CALLS)


@pytest.fixture(scope="module")
def walks(library: Path) -> Walks:
    return Walks(library)


@pytest.fixture(scope="module")
def recorded(
    tmp_path_factory: pytest.TempPathFactory, require_tool: Callable[[str], str]
) -> Callable[[str, str], Recording]:
    """Records a scenario with a build, once."""
    require_tool("gcc")
    folder = tmp_path_factory.mktemp("steps")
    compiled, tables = Compiler(folder), Tables()
    found: dict[tuple[str, str], Recording] = {}

    def get(build: str, scenario: str) -> Recording:
        if (build, scenario) not in found:
            program = compiled("single_steps.c", *BUILDS[build], *LAZY)
            found[build, scenario] = record(program, folder / "steps", scenario, tables)
        return found[build, scenario]

    return get


@pytest.fixture(params=CASES, ids=lambda case: "-".join(case).replace(" ", "-"))
def case(request: pytest.FixtureRequest) -> tuple[str, str]:
    """A build and a scenario."""
    build, scenario = request.param
    return build, scenario


@pytest.fixture
def recording(
    case: tuple[str, str], recorded: Callable[[str, str], Recording], walks: Walks
) -> Recording:
    """That of the case, its tables in force."""
    found = recorded(*case)
    walks.forget()
    walks.install(found.layout, found.update)
    return found


def assert_same_frames(ips: tuple[int, ...], walked: Walked, arrays: Arrays) -> None:
    """All, or as many as a walk takes, or those up to one that no row can express: its CFA is in
    another register, as in the dynamic linker's resolver."""
    if walked.result is WalkResult.NO_RULE:
        row = arrays.find_row(walked.ips[-1] - (len(walked.ips) > 1))
        assert row
        assert (row.rule, row.cfa_offset) == (Rule.RULE_NONE, NoRule.CFA_REGISTER)
        assert walked.ips == ips[: len(walked.ips)]
    else:
        assert walked.ips == ips[: abi.MAX_FRAMES]
        assert (walked.result is WalkResult.TOO_DEEP) == (len(ips) > abi.MAX_FRAMES)


def arrays_of(recording: Recording) -> Arrays:
    arrays = Arrays()
    arrays.write(recording.update)
    return arrays


# --- stacks of a real program ---


def test_the_frames_are_those_of_backtrace(
    case: tuple[str, str], recording: Recording, walks: Walks
) -> None:
    arrays = arrays_of(recording)
    ends = Counter[StackEndCode]()
    for stop in recording.stops:
        origin = Origin(Start.FAULT, stop.registers)
        walked = walks.walk(origin, stop.memory)
        assert_same_frames(stop.ips, walked, arrays)
        assert walked[1:4] == Reference(arrays, stop.memory, TRAMPOLINE).walk(origin)
        ends[walked.end] += 1
    _, scenario = case
    end = StackEndCode.GUESSED if scenario == "generated" else StackEndCode.COMPLETE
    assert ends[end] >= 40


def test_walks_from_a_return_probe(recording: Recording, walks: Walks) -> None:
    arrays = arrays_of(recording)
    stops = [stop for stop in recording.stops if stop.has_returned]
    assert stops
    for stop in stops:
        walked = walks.walk(Origin(Start.RETURN, stop.registers), stop.memory)
        assert_same_frames(stop.ips, walked, arrays)


def test_walks_from_a_point_within_a_function(recording: Recording, walks: Walks) -> None:
    """They begin with the caller."""
    arrays = arrays_of(recording)
    count = 0
    for stop in recording.stops:
        caller = caller_by(arrays.find_row(stop.registers.ip))
        if caller:
            walked = walks.walk(Origin(Start.POINT, stop.registers, caller), stop.memory)
            assert_same_frames(stop.ips[1:], walked, arrays)
            count += 1
    assert count > 40


def caller_by(row: Row | None) -> Caller | None:
    """What a point would record about the caller; None where it can't."""
    if row is None or row.rule not in (Rule.RULE_RSP, Rule.RULE_RBP):
        return None
    register = 4 if row.rule is Rule.RULE_RSP else 5
    if row.saved_rbp in (SavedRbp.LOST, SavedRbp.AT_RBP):
        return None
    return Caller(register, row.cfa_offset, -8 * row.saved_rbp)


def test_every_kind_of_frame_is_met(recorded: Callable[[str, str], Recording]) -> None:
    """Otherwise the comparison with backtrace proves less than it seems to."""
    rules: set[Rule] = set()
    recording = recorded("omit-frame-pointer", "kinds")
    arrays = arrays_of(recording)
    for stop in recording.stops:
        back = 0
        for ip in stop.ips:
            row = arrays.find_row(ip - back)
            assert row
            rules.add(row.rule)
            back = int(row.rule is not Rule.RULE_SIGNAL)
    assert rules == {*Rule} - {Rule.RULE_RSP_DEREF}  # hand-written stack switching
    timed = recorded("omit-frame-pointer", "vdso")
    assert "[vdso]" in {timed.path_of(stop.registers.ip) for stop in timed.stops}


def test_a_deep_stack_takes_eight_programs(
    recorded: Callable[[str, str], Recording], walks: Walks
) -> None:
    recording = recorded("omit-frame-pointer", "deep 120")
    walks.install(recording.layout, recording.update)
    result_by_depth: dict[int, WalkResult] = {}
    for stop in recording.stops:
        walked = walks.walk(Origin(Start.FAULT, stop.registers), stop.memory)
        if walked.result is not WalkResult.NO_RULE:
            result_by_depth[len(stop.ips)] = walked.result
            assert walked.run.tail_calls == (len(walked.ips) - 1) // 16
    assert result_by_depth[abi.MAX_FRAMES] is WalkResult.COMPLETE
    assert result_by_depth[abi.MAX_FRAMES + 1] is WalkResult.TOO_DEEP


def test_one_program_walks_64_frames(
    recorded: Callable[[str, str], Recording], tmp_path: Path
) -> None:
    recording = recorded("omit-frame-pointer", "deep 120")
    walks = Walks(compile_programs(tmp_path, Walker.SINGLE))
    walks.install(recording.layout, recording.update)
    results = Counter[WalkResult]()
    for stop in recording.stops:
        walked = walks.walk(Origin(Start.FAULT, stop.registers), stop.memory)
        assert walked.ips == stop.ips[: len(walked.ips)]
        results[walked.result] += 1
        if walked.result is WalkResult.TOO_DEEP:
            assert (len(walked.ips), walked.run.tail_calls) == (64, 0)
    assert results[WalkResult.TOO_DEEP] > 40


def test_a_stack_that_was_walked_is_known(
    case: tuple[str, str], recording: Recording, walks: Walks
) -> None:
    """A stack that differs in a deciding word is not confused with it."""
    random = Random(1)
    known = 0
    for stop in recording.stops:
        if not stop.has_returned:
            continue
        origin = Origin(Start.RETURN, stop.registers)
        walks.forget()
        first = walks.walk(origin, stop.memory)
        walks.walk(origin, stop.memory)  # the first has said where to look, this one is kept
        again = walks.walk(origin, stop.memory)
        assert (again.id, again.ips) == (first.id, first.ips)
        assert not (again.is_known and len(again.ips) > KNOWN_SLOTS + 1)
        known += again.is_known
        address = stop.registers.sp + 8 * random.randrange(40)
        if stop.memory.read(address, 8) is None:
            continue
        changed = stop.memory.changed({address: random.choice(stop.ips)})
        after = walks.walk(origin, changed)
        walks.forget()
        alone = walks.walk(origin, changed)
        assert (after.id, after.ips, after.end) == (alone.id, alone.ips, alone.end)
    assert bool(known) is (case in KNOWN)


# --- made-up stacks ---


@pytest.fixture(scope="module")
def fuzzer(library: Path) -> Fuzzer:
    return Fuzzer(library, Walker.TAIL_CALLS.knobs()["WALK_PARTS"])


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(st.randoms(use_true_random=False))
def test_made_up_stacks(fuzzer: Fuzzer, random: Random) -> None:
    fuzzer.check(random)


def test_made_up_stacks_under_sanitizers(
    tmp_path: Path, require_tool: Callable[[str], str], repository: Path
) -> None:
    """A few cases, the same each time; by `make fuzz` others, for LEAKTRACE_FUZZ_SECONDS."""
    gcc = require_tool("gcc")
    runtime = subprocess.run(
        [gcc, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    if not Path(runtime).is_absolute():
        pytest.skip("gcc has no libasan")
    library = compile_programs(tmp_path, Walker.TAIL_CALLS, SANITIZE)
    seconds = ["--seconds", str(FUZZ_SECONDS), "--first-seed", str(Random().getrandbits(40))]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "walker.fuzz", "--library", str(library)),
            *(seconds if FUZZ_SECONDS else ["--cases", str(FEW_CASES)]),
        ],
        env={
            **os.environ,
            "PYTHONPATH": f"{repository / 'tests/support'}:{os.environ.get('PYTHONPATH', '')}",
            "LD_PRELOAD": runtime,
            "ASAN_OPTIONS": "detect_leaks=0",  # Python's
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=FUZZ_SECONDS + DEADLINE_S,  # walks that don't end
    )
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)
    known = re.search(r"'known': (\d+)", done.stdout)
    assert known and int(known.group(1)) > 0


# --- words, addresses and registers that look like others ---


def words(*values: int) -> bytes:
    return b"".join(value.to_bytes(8, "little") for value in values)


def assert_as_reference(
    walks: Walks, rows: list[Row], registers: Registers, stack: bytes, trampoline: int = TRAMPOLINE
) -> None:
    """Walk in an object with these rows, on `stack` at STACK_START."""
    process = process_of([rows])
    memory = Memory({**process.code, STACK_START: stack})
    walks.install(process.layout, process.update, trampoline)
    origin = Origin(Start.FAULT, registers)
    expected = Reference(process.arrays, memory, trampoline or 1 << 63).walk(origin)
    assert walks.walk(origin, memory)[1:4] == expected


def test_rbp_is_not_found_by_an_rbp_that_was_lost(walks: Walks) -> None:
    rows = [
        Row(0x100, Rule.RULE_RSP, 8, SavedRbp.LOST),
        Row(0x200, Rule.RULE_RSP, 8, SavedRbp.AT_RBP),
        Row(0x300, Rule.RULE_RBP, 8, 0),
    ]
    stack = words(CODE_START + 0x204, CODE_START + 0x304, 0, STACK_START + 32, 0, 0)
    registers = Registers(CODE_START + 0x104, STACK_START, STACK_START + 24)
    assert_as_reference(walks, rows, registers, stack)


def test_words_of_another_alignment_than_sp(walks: Walks) -> None:
    rows = [
        Row(0x100, Rule.RULE_RSP, 8, 0),
        Row(0x200, Rule.RULE_RBP, 16, 0),
        Row(0x300, Rule.RULE_END, 0, 0),
    ]
    stack = bytes(4) + words(CODE_START + 0x204) + bytes(12) + words(CODE_START + 0x304)
    registers = Registers(CODE_START + 0x104, STACK_START + 4, STACK_START + 16)
    assert_as_reference(walks, rows, registers, stack + bytes(2048))


def test_a_stack_that_leads_to_address_8_is_recorded(walks: Walks) -> None:
    rows = [Row(0x100, Rule.RULE_SIGNAL, 0, 0), Row(0x200, Rule.RULE_RSP, 8, 0)]
    stack = bytearray(256)
    stack[168:176] = words(CODE_START + 0x204)  # rip; rsp is 0
    registers = Registers(CODE_START + 0x104, STACK_START, 0)
    assert_as_reference(walks, rows, registers, bytes(stack))


def test_no_trampoline_is_known(walks: Walks) -> None:
    rows = [Row(0x100, Rule.RULE_RSP, 8, 0)]
    registers = Registers(CODE_START + 0x104, STACK_START, 0)
    assert_as_reference(walks, rows, registers, words(5) + bytes(64), trampoline=0)
