"""--pair in several processes of one run: one account of all, and what each of them holds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from harness.compiling import Compiler
from harness.families import (
    OFTEN,
    await_report,
    await_traced,
    last_report,
    processes_of,
    share_of,
)
from harness.reports import Report, Total
from harness.target import Target
from harness.tracer import NEVER, ONE_REPORT, Tracer, run_leaktrace
from harness.wording import lines_naming, names

pytestmark = pytest.mark.usefixtures("require_bpf")

POOL = "pool_take:pool_give:3:2"
TICKETS = "ticket_take:ticket_give"
LABELS = Total(300 * 24, 300)  # that malloc allocates for what is taken from the pool


@pytest.fixture
def program(compiled: Compiler) -> Path:
    return compiled("pairs.c")


@pytest.fixture
def three(program: Path, compiled: Compiler) -> Iterator[list[Target]]:
    """Two of the program, and another one without its functions."""
    with ExitStack() as stack:
        programs = (program, program, compiled("family.c"))
        targets = [stack.enter_context(Target([one])) for one in programs]
        yield [one.await_ready() for one in targets]


def pids_of(targets: list[Target]) -> str:
    return ",".join(str(one.pid) for one in targets)


def section(report: Report, name: str) -> dict[str, Any]:
    (found,) = (one for one in report.raw["sections"] if one["section"] == name)
    assert isinstance(found, dict)
    return found


def holds(part: dict[str, Any]) -> dict[int, Total]:
    """What each process holds at the one site of a section."""
    (site,) = Report.sites_of(part)
    return share_of(site)


def test_pairs_of_several_processes(three: list[Target]) -> None:
    """A process that lacks the functions is traced for malloc, and a note says so."""
    first, second, other = three
    with Tracer("-p", pids_of(three), "--pair", POOL, "--pair", TICKETS, *ONE_REPORT, NEVER) as run:
        run.await_armed()
        pools = {first.pid: Total(*first.do("pool")), second.pid: Total(*second.do("pool"))}
        _, tickets = second.do("tickets")
        kept = Total(*other.do("keep 7 100"))
        report = last_report(run)
    assert report.losses == {}
    pool = section(report, "pool_take")
    assert holds(pool) == pools
    assert pool["outstanding"]["bytes"] == sum(one.bytes for one in pools.values())
    (site,) = section(report, "ticket_take")["sites"]
    assert site["processes"] == [{"pid": second.pid, "bytes": None, "count": tickets}]
    assert {pid: line["outstanding"] for pid, line in processes_of(report).items()} == {
        first.pid: {"bytes": LABELS.bytes, "count": LABELS.count},
        second.pid: {"bytes": LABELS.bytes, "count": LABELS.count},
        other.pid: {"bytes": kept.bytes, "count": kept.count},
    }
    said = "\n".join(report.raw["target"]["notes"])
    assert lines_naming(said, other.pid, "pool_take")
    assert not lines_naming(said, first.pid, "pool_take")


def test_the_same_addresses_in_two_processes(program: Path) -> None:
    """Without address randomization: what one process releases is not what the other one has."""
    with ExitStack() as stack:
        argv = ["setarch", "-R", str(program)]
        targets = [stack.enter_context(Target(argv)).await_ready() for _ in range(2)]
        with Tracer("-p", pids_of(targets), "--pair", POOL, *ONE_REPORT, NEVER) as run:
            run.await_armed()
            pools = {one.pid: Total(*one.do("pool")) for one in targets}
            report = last_report(run)
    assert holds(section(report, "pool_take")) == pools
    assert section(report, "pool_take")["pair"]["other_releases"] == 0


def test_pairs_alone_in_several_processes(three: list[Target]) -> None:
    """The report is about the pair, and so is its table of processes."""
    first, second, other = three
    options = ("--pair", TICKETS, "--no-malloc", *ONE_REPORT, NEVER)
    with Tracer("-p", pids_of(three), *options) as run:
        run.await_armed()
        _, of_first = first.do("tickets")
        second.do("pool")
        other.do("keep 19000 2000")
        report = last_report(run)
    assert report.raw["outstanding"] == {"bytes": None, "count": of_first}
    assert report.raw["remarks"] == []
    counts = {pid: line["outstanding"] for pid, line in processes_of(report).items()}
    assert counts == {
        first.pid: {"bytes": None, "count": of_first},
        second.pid: {"bytes": None, "count": 0},
        other.pid: {"bytes": None, "count": 0},
    }


def test_the_text_of_objects_without_sizes(three: list[Target]) -> None:
    first = three[0]
    options = ("--pair", TICKETS, "--no-malloc", "-o", "0", "-T", "5", "3600")
    with Tracer("-p", pids_of(three), *options, NEVER) as run:
        run.await_armed()
        _, count = first.do("tickets")
        outcome = run.stop()
    assert outcome.exit_code == 0, outcome.stderr
    (line,) = lines_naming(outcome.stdout, first.pid, str(count))
    assert not names(line, "B")
    assert "KiB" not in outcome.stdout


def test_functions_that_no_process_has(three: list[Target]) -> None:
    outcome = run_leaktrace("-p", pids_of(three), "--pair", "pool_tak:pool_give")
    assert outcome.exit_code == 1
    assert "Traceback" not in outcome.stderr
    assert all(names(outcome.stderr, word) for word in ("pool_tak", "pool_take"))
    assert [one.end() for one in three] == [0, 0, 0]


def test_a_forked_child(program: Path) -> None:
    """What the parent had before is the parent's."""
    with Target([program]) as target:
        target.await_ready()
        options = ("--pair", POOL, "--follow", *OFTEN, NEVER)
        with Tracer("-p", str(target.pid), *options) as run:
            run.await_armed()
            of_parent = Total(*target.do("pool"))
            (child,) = target.do("fork")
            await_traced(run, child)
            of_child = Total(*target.do("child nested"))
            report = last_report(run)
        assert target.end() == 0
    assert report.losses == {}
    shown = section(report, "pool_take")
    sites = Report.sites_of(shown)
    assert {pid: one for site in sites for pid, one in share_of(site).items()} == {
        target.pid: of_parent,
        child: of_child,
    }
    assert not any("pool_take" in note for note in report.raw["target"]["notes"])


def test_a_program_that_a_child_executes(program: Path, compiled: Compiler) -> None:
    """The object that is named is not among those of the process that was named."""
    with Target([compiled("family.c")]) as target:
        target.await_ready()
        pair = f"{program.name}:{POOL}"
        with Tracer("-p", str(target.pid), "--pair", pair, "--follow", *OFTEN, NEVER) as run:
            run.await_armed()
            (child,) = target.do(f"spawn {program}")
            await_report(
                run,
                lambda report: (
                    section(report, pair.removesuffix(":pool_give:3:2"))["pair"]["objects"]
                    == [program.name]
                ),
            )
            account = Total(*target.do("to 0 pool"))
            report = last_report(run)
        assert target.end() == 0
    assert holds(section(report, f"{program.name}:pool_take")) == {child: account}
