"""Families of processes (tests/programs/family.c), and what leaktrace reports about each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from harness.lines import DEADLINE_S
from harness.reports import Report, Site, Total
from harness.target import Target
from harness.tracer import Tracer

# Reports follow each other fast: a process that is in one is traced.
OFTEN = ("0.2", "--format", "json", "-o", "0", "-T", "100000")


def processes_of(report: Report) -> dict[int, dict[str, Any]]:
    """The lines of several processes, by pid."""
    return {line["pid"]: line for line in report.raw.get("processes", [])}


def share_of(site: Site) -> dict[int, Total]:
    """What each process holds of a site."""
    return {one["pid"]: Total(one["bytes"], one["count"]) for one in site.raw["processes"]}


def await_report(
    tracer: Tracer, wanted: Callable[[Report], bool], most: int = int(DEADLINE_S * 5)
) -> Report:
    """The first report, of those to come (at most so many), that satisfies the condition."""
    for _ in range(most):
        report = tracer.next_report()
        if wanted(report):
            return report
    raise AssertionError(f"no such report; the last one: {report.raw}")


def await_traced(tracer: Tracer, *pids: int) -> Report:
    """Wait until all these processes are traced."""
    return await_report(tracer, lambda report: set(pids) <= set(processes_of(report)))


def keeps(target: Target, count: int, size: int, *path: int) -> Total:
    """Let a process keep blocks: the target itself, or by `path` its child's child … . Returns its
    own account."""
    route = "".join(f"to {index} " for index in path)
    return Total(*target.do(f"{route}keep {count} {size}"))


def kept_site(report: Report) -> Site:
    """The one site at which processes of the family keep blocks."""
    (site,) = report.sites_under("scenario_keep")
    return site


def last_report(tracer: Tracer) -> Report:
    """End leaktrace; its final report."""
    outcome = tracer.stop()
    assert outcome.exit_code == 0, outcome.stderr
    assert "Traceback" not in outcome.stderr, outcome.stderr
    report = outcome.reports[-1]
    assert report.final
    return report


def holds(report: Report) -> dict[int, Total]:
    """What each process keeps, as leaktrace has it."""
    return share_of(kept_site(report))


def what_is_held(report: Report) -> dict[int, Total]:
    """The same, from however many sites, without processes that hold nothing."""
    found: dict[int, Total] = {}
    for site in report.sites_under("scenario_keep"):
        for pid, one in share_of(site).items():
            before = found.get(pid, Total())
            found[pid] = Total(before.bytes + one.bytes, before.count + one.count)
    return {pid: one for pid, one in found.items() if one.count}


def notes_of(report: Report) -> str:
    return "\n".join(report.raw["target"]["notes"])
