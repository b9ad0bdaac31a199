"""The test that every way to hook a function has to pass: a traced program does exactly what it
does untraced, even if code leaves an allocation function other than by its end, reads the stack
from inside it, or interrupts it. And leaktrace's figures are the program's own.

A scenario is a line of SCENARIOS. In the short form each is run on one allocator, traced in one
way. With LEAKTRACE_LENGTH=long it is run on all its allocators, in both ways, with every set of
options.
"""

from __future__ import annotations

import ctypes.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness.compiling import Compiler
from harness.gate import Ending, Watched, attached, started, untraced
from harness.length import IS_LONG
from harness.reports import Total
from harness.tracer import NEVER, ONE_REPORT

pytestmark = pytest.mark.usefixtures("require_bpf")


LIBRARIES = ("jemalloc", "tcmalloc_minimal", "mimalloc")  # preloaded, or linked with
ANY_OF_CPP = ("glibc", *LIBRARIES, "static glibc")
ANY = (*ANY_OF_CPP, "musl")
OWN = ("glibc", "static glibc", "musl")  # what is beneath a program's own malloc
GLIBC = ("glibc", "static glibc")
SHARED = ("glibc", "musl")  # a static program can't be cancelled: it has no unwinder to load
INSIDE = ("-DOWN_MALLOC", "-fexceptions")
# mimalloc, which Debian compiles as C, aborts where it should throw.
THROWING = ("glibc", "jemalloc", "tcmalloc_minimal", "static glibc")

WELL = 3  # what the programs exit with

# The call itself is counted as one whose end was not seen, and is not the program's.
LEFT = frozenset({"stale_calls"})
# A thread may end with a block that it has not freed. Later another block is at its address.
KEPT = LEFT | {"missed_frees"}


@dataclass(frozen=True)
class Scenario:
    """A program, and the allocators it is run on."""

    name: str
    argv: tuple[str, ...]  # source and arguments
    allocators: tuple[str, ...]
    flags: tuple[str, ...] = ()
    may_lose: frozenset[str] = frozenset()
    is_thorough: bool = False  # in the short form too on every allocator
    dies_on: tuple[str, ...] = ()  # allocators on which it is aborted untraced too


def with_c(source: str) -> tuple[str, ...]:
    """Flags that compile a C source into a program in C++."""
    return ("-fexceptions", "-x", "c", str(Compiler.source(source)), "-x", "none", "-lstdc++")


SCENARIOS = (
    Scenario("new throws", ("throwing.cpp", "all"), ANY_OF_CPP, (), LEFT, True, ("mimalloc",)),
    Scenario("new refuses", ("throwing.cpp", "nothrow"), ANY_OF_CPP, (), LEFT),
    Scenario("new_handler throws", ("throwing.cpp", "handler-throws"), THROWING, (), LEFT),
    Scenario("new_handler jumps", ("throwing.cpp", "handler-jumps"), THROWING, (), LEFT),
    Scenario("new_handler exits", ("throwing.cpp", "handler-exits"), THROWING, (), LEFT),
    Scenario("new_handler makes room", ("throwing.cpp", "handler-frees"), THROWING),
    Scenario("limited operator new", ("limited.cpp",), GLIBC, (), LEFT),
    Scenario("limited, own malloc", ("limited.cpp",), ("glibc",), with_c("plain_malloc.c"), LEFT),
    Scenario("exceptions pass C", ("refusing.cpp",), ("glibc",), with_c("refusing_malloc.c"), LEFT),
    Scenario("cancelled between calls", ("cancelled.c", "deferred"), ANY, ("-fexceptions",)),
    Scenario("cancelled inside", ("cancelled.c", "deferred"), SHARED, INSIDE, LEFT),
    Scenario("cancelled anywhere", ("cancelled.c", "asynchronous"), SHARED, INSIDE, KEPT),
    Scenario("pthread_exit inside", ("cancelled.c", "exits"), OWN, INSIDE, LEFT),
    Scenario("a handler jumps out", ("interrupted.c",), OWN, (), LEFT),
    Scenario("two coroutines", ("yielding.c", "2"), GLIBC),
    Scenario("fifty coroutines", ("yielding.c", "50"), GLIBC),
    Scenario("coroutines change threads", ("yielding.c", "50", "moves"), GLIBC),
    Scenario("frames seen in malloc", ("frames_in_malloc.c",), GLIBC),
    Scenario("frames seen in new_handler", ("frames_in_handler.cpp",), THROWING, (), LEFT),
    Scenario("frames of a fault", ("frames_of_fault.c",), ANY_OF_CPP, (), LEFT),
    Scenario("storm of signals", ("storm.c",), ANY),
    Scenario("storm on another stack", ("storm.c", "alternate"), ANY, is_thorough=True),
    Scenario("own SIGTRAP handler", ("trapping.c",), ANY),
    Scenario("fork", ("lineage.c", "fork"), ANY),
    Scenario("fork with another thread", ("lineage.c", "threads"), ANY),
    Scenario("vfork and exec", ("lineage.c", "vfork"), ANY),
    Scenario("posix_spawn", ("lineage.c", "spawn"), ANY),
    Scenario("daemon", ("lineage.c", "daemon"), ANY),
    Scenario("eight workers", ("lineage.c", "prefork"), ANY),
    Scenario("malloc looks at its callers", ("callers.c",), OWN),
)


@dataclass(frozen=True)
class Choice:
    """Options to trace with, and what they make of the program's account."""

    options: tuple[str, ...] = ()
    interval: str = NEVER
    expected: Callable[[Total], Total | None] = lambda account: account
    loses_nothing: bool = True


def _unknown(account: Total) -> None:
    """An estimate, or stacks that need not be complete."""
    return


CHOICES = {
    "default": Choice(),
    "-s": Choice(("-s", "10"), expected=_unknown),
    "-z": Choice(("-z", "1000"), expected=lambda account: Total()),  # all are smaller
    "--sample-bytes": Choice(("--sample-bytes", "1000"), expected=_unknown),
    "--max-overhead": Choice(("--max-overhead", "5"), "0.1", _unknown, loses_nothing=False),
    "--combined-only": Choice(("--combined-only",)),
    "-t": Choice(("-t",)),
    "fp": Choice(("--stack-walker", "fp"), expected=_unknown),
}

WAYS = ("attached", "started")


@dataclass(frozen=True)
class Case:
    """One traced run."""

    scenario: Scenario
    allocator: str
    way: str
    choice: Choice


def cases() -> Iterator[object]:
    for index, scenario in enumerate(SCENARIOS):
        for place, allocator in enumerate(scenario.allocators):
            for which, way in enumerate(WAYS):
                is_its_place = place == index % len(scenario.allocators)
                is_chosen = (is_its_place or scenario.is_thorough) and which == (
                    place + index // 3
                ) % 2
                for name in CHOICES if IS_LONG else ("default",) if is_chosen else ():
                    words = [scenario.name, allocator, way, *([name] if IS_LONG else [])]
                    case = Case(scenario, allocator, way, CHOICES[name])
                    yield pytest.param(case, id="-".join(words))


def build(case: Case, compiled: Compiler) -> tuple[list[str | Path], dict[str, str]]:
    """The words of a command that runs the program on that allocator, and its environment."""
    source, *arguments = case.scenario.argv
    flags = [*case.scenario.flags]
    env = {}
    if case.allocator in LIBRARIES:
        library = ctypes.util.find_library(case.allocator)
        if library is None:
            pytest.skip(f"lib{case.allocator} is not installed")
        if case.way == "attached":
            env["LD_PRELOAD"] = library
        else:
            flags += ["-Wl,--no-as-needed", f"-l:{library}", "-Wl,--as-needed"]
    elif case.allocator == "static glibc":
        flags.append("-static")
    compiler = "musl-gcc" if case.allocator == "musl" else ""
    return [compiled(source, *flags, compiler=compiler), *arguments], env


@pytest.mark.parametrize("case", list(cases()))
@pytest.mark.may_skip("not every machine has every allocator")
def test_a_traced_program_does_what_it_does_untraced(
    case: Case, compiled: Compiler, tmp_path: Path
) -> None:
    argv, env = build(case, compiled)
    options = [*ONE_REPORT, *case.choice.options, case.choice.interval]
    truth = untraced(argv, env)
    assert truth.status == WELL or case.allocator in case.scenario.dies_on
    if case.way == "attached":
        seen = attached(argv, env, options)
    else:
        seen = started(argv, env, options, tmp_path / "reports")
    check(seen, truth, case)


def check(seen: Watched, truth: Ending, case: Case) -> None:
    assert seen.ending == truth, seen.stderr
    if seen.account is None:
        return  # it ended before it could say
    expected = case.choice.expected(seen.account)
    if expected is not None:
        assert seen.outstanding == expected
    if case.choice.loses_nothing:
        assert not seen.report.lost_allocations.keys() - case.scenario.may_lose
