"""Stacks of a report that is being compared."""

from __future__ import annotations

from harness.reports import Report, Site
from harness.tracer import Tracer


def next_look(tracer: Tracer) -> Report:
    """A report for which the mappings were read after this was called."""
    tracer.next_report()  # may have been under way
    return tracer.next_report()


def assert_called_by(site: Site, *functions: str) -> None:
    assert site.functions[: len(functions)] == functions
    assert site.functions[-1] == "_start"
    assert site.raw["stack_end"] == "complete"


def ended(report: Report, *ends: str) -> tuple[Site, ...]:
    return tuple(site for site in report.sites if site.raw["stack_end"] in ends)
