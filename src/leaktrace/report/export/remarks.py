"""What a reader of an exported file must know about its figures: losses, estimates, filters.

Formats with room for text carry these sentences. For the others they are printed beside the file.
"""

from __future__ import annotations

from collections.abc import Iterator

from leaktrace import units
from leaktrace.analysis.views.parts import not_listed
from leaktrace.model import Measure, Report
from leaktrace.printable import printable
from leaktrace.report.endings import final_reason_in_words
from leaktrace.report.export.sites import sections_of


def title(report: Report) -> str:
    """The target and the moment: "httpd (pid 4242), 15.0s after tracing began"."""
    target = report.target
    if target.kind == "kernel":
        whose = "the kernel"
    elif len(target.pids) > 1:
        whose = f"{len(target.pids)} processes"
    else:
        whose = f"{target.command} (pid {target.pid})"
    if report.measure.is_of_go:
        is_heap = report.measure is Measure.GO_HEAP
        what = "the Go runtime's profile of its heap" if is_heap else "goroutines"
        return printable(": ".join([", ".join([whose, *target.allocators]), what]))
    return printable(f"{whose}, {report.elapsed_s:.1f}s after tracing began")


def remarks(report: Report) -> Iterator[str]:
    """The sentences about a report and its sections, each printable and on one line."""
    for sentence in _remarks(report):
        yield printable(sentence)
    for name, section in sections_of(report):
        for sentence in _of_sites(section):
            yield printable(f"{name}: {sentence}")


def _remarks(report: Report) -> Iterator[str]:
    if reason := final_reason_in_words(report):
        yield f"the last report: {reason}"
    if report.is_estimate:
        sampled = units.sample_in_words(report)
        yield f"all figures are estimates, scaled up from a sample: {sampled}"
    if report.measure is Measure.FAULTS:
        yield "figures are pages that became resident, in bytes, even if they no longer are"
    if report.measure.is_of_go:
        yield from report.target.notes
    if report.measure is Measure.GOROUTINES:
        yield "figures are numbers of goroutines, without the runtime's own"
    elif report.is_counted:
        yield "figures are counts of objects, which have no sizes"
    yield from _of_sites(report)
    for loss in report.losses:
        if loss.count:
            label = "lost" if loss.is_lost else "cut off" if loss.hint else "uncertain"
            size = "" if loss.bytes is None else f" ({units.size(loss.bytes)})"
            hint = f"; {loss.hint}" if loss.hint else ""
            yield f"{label}: {units.loss_in_words(loss)}{size}{hint}"
    for remark in report.remarks:
        if remark.kind.is_of_completeness:
            yield f"incomplete: {remark.text}" + (f"; {remark.hint}" if remark.hint else "")
    if report.target.stopped:
        yield report.target.stopped


def _of_sites(report: Report) -> Iterator[str]:
    """Which memory is not among the sites."""
    if report.younger.count:
        yield (
            f"left out: {_held(report, report.younger.bytes, report.younger.count)} younger than "
            f"{report.older_ms} ms (--older)"
        )
    if report.suppressed is not None and report.suppressed.site_count:
        held = report.suppressed.held
        sites = units.counted(report.suppressed.site_count, "site")
        yield f"left out: {_held(report, held.bytes, held.count)} at {sites} (--suppressions)"
    missing = not_listed(report)
    if missing:
        yield f"left out: {units.counted(missing, 'site')}, which the report doesn't list"


def _held(report: Report, held_bytes: int, count: int) -> str:
    if report.is_counted:
        return f"{count:,} objects"
    return f"{held_bytes:,} bytes in {units.counted(count, 'block')}"
