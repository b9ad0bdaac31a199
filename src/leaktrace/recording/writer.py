"""Writes a recording: the reports of a run, with all their sites."""

from __future__ import annotations

import errno
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

from leaktrace.analysis.top_sites import with_top
from leaktrace.model import Report
from leaktrace.printable import printable
from leaktrace.recording.changes import SiteChanges
from leaktrace.recording.format import (
    CHANGES,
    END,
    FORGET,
    FREED,
    LONGEST_LINE,
    MARK,
    RECORDING,
    STACK,
    Object,
    site_lists,
    usually_freed,
)
from leaktrace.recording.streams import LineFile
from leaktrace.report.json_lines import report_object
from leaktrace.report.json_sites import site_object, stack_object
from leaktrace.report.moment_json import in_utc
from leaktrace.site import Site, Stack

_FEW_STACKS = 10_000
_LONGEST_MARK = 200  # characters of a name


@dataclass(frozen=True)
class RunInfo:
    """What the first line says about a run."""

    version: str  # of leaktrace
    started: datetime
    host: Object
    target: Object
    options: Object


@dataclass(frozen=True)
class LeftOut:
    """A report was too long for a line, so not all of its sites are in the recording."""

    listed: int  # sites
    of: int


class RecordingWriter:
    """Writes lines to a file. After a failure the next report is written whole."""

    def __init__(self, file: LineFile, info: RunInfo) -> None:
        self._file = file
        self._info = info
        self._has_begun = False
        self._numbers: dict[Stack, int] = {}  # of the stacks that were written
        self._written: set[int] = set()
        self._last_of: dict[str, tuple[Stack, int]] = {}  # by site id, in the last report
        self._stack_count = 0
        self._new_stacks: list[Object] = []
        self._used: dict[int, Stack] = {}
        self._lists: dict[str, SiteChanges] = {}
        self._is_first = True
        self._missed = 0  # reports that could not be written since the last one that was
        self.reports = 0
        self.left_out: LeftOut | None = None  # of the last report

    def begin(self) -> None:
        """Write the first line. Raises OSError."""
        self._file.write(_lines([self._header()]))
        self._has_begun = True

    def report(self, report: Report, mark: str | None = None) -> None:
        """Write a report, and before it the mark for which it is made, if there is one. Raises
        OSError: then both are missing in the recording."""
        self.left_out = None
        try:
            begin = [] if self._has_begun else [self._header()]
            begin += self._forget_unused()
            changes = self._fitting(report)
            if mark is not None:
                begin.append(_mark(mark, report))
            self._file.write(_lines([*begin, *self._new_stacks]) + changes)
        except OSError:
            self._missed += 1
            self._start_over()
            raise
        finally:
            self._new_stacks = []
        self._has_begun, self._is_first, self._missed = True, False, 0
        self.reports += 1

    def end(self) -> None:
        """Write the last line. Raises OSError."""
        self._file.write(_lines([{"schema": END, "reports": self.reports, "missed": self._missed}]))

    def _fitting(self, report: Report) -> bytes:
        """The line of a report. If it is too long to be read again, the last sites of each list
        are left out: half of the longest list, until it fits. Raises OSError if it never does."""
        line = _encoded(self._changes(report))
        most = whole = 0
        while len(line) > LONGEST_LINE:
            if not whole:
                counts = [len(known) for known in self._lists.values()]
                most, whole = max(counts), sum(counts)
            if not most:
                raise _too_long()
            most //= 2
            # Stacks keep their numbers: the new ones are still to be written.
            self._lists, self._is_first = {}, True
            shorter = replace(with_top(report, most), top=report.top)
            line = _encoded(self._changes(shorter))
            listed = sum(len(known) for known in self._lists.values())
            self.left_out = LeftOut(listed, whole)
        return line

    def _start_over(self) -> None:
        """What the file has is what it had before."""
        self._numbers, self._written, self._last_of = {}, set(), {}
        self._lists, self._is_first = {}, True

    def _header(self) -> Object:
        info = self._info
        return {
            "schema": RECORDING,
            "time": in_utc(info.started),
            "leaktrace": info.version,
            "host": info.host,
            "target": info.target,
            "options": info.options,
        }

    def _changes(self, report: Report) -> Object:
        elapsed_ns = round(report.elapsed_s * 1e9)
        self._used = {}
        whole = report_object(report, lambda site: self._site(site, elapsed_ns))
        whole["schema"] = CHANGES
        whole["elapsed_ns"] = elapsed_ns  # what times of sites are compared with
        if self._is_first:
            whole["whole"] = True
        if self._missed:
            whole["missed"] = self._missed
        lists = {}
        for name, part in site_lists(whole):
            changes = lists[name] = self._lists.get(name, SiteChanges())
            part.update(changes.of(part["sites"], report.sort, report.top))
        self._lists = lists
        return whole

    def _forget_unused(self) -> list[Object]:
        """The stacks that no site of the last report has, once there are many, or all after a
        failure. They are written again if one has. Returns the line that lets readers forget them,
        too."""
        if self._missed:  # see _start_over: they get other numbers
            return [{"schema": FORGET, "kept": 0}] if self.reports else []
        if len(self._written) <= 2 * len(self._used) + _FEW_STACKS:
            return []
        self._numbers = {stack: number for number, stack in self._used.items()}
        self._written = set(self._used)
        self._last_of = {
            site: known for site, known in self._last_of.items() if known[1] in self._written
        }
        return [{"schema": FORGET, "kept": len(self._written)}]

    def _site(self, site: Site, elapsed_ns: int) -> Object:
        """A site with absolute times and the number of its stack."""
        shown = site_object(site, partial(self._stack, site.id))
        for freed, allocated, held in FREED:
            if shown[freed] == usually_freed(shown, allocated, held):
                del shown[freed]
        del shown["oldest_ms"], shown["newest_ms"]
        if site.oldest_ns is not None:
            shown["oldest_at_ns"] = elapsed_ns - site.oldest_ns
        if site.newest_ns is not None:
            shown["newest_at_ns"] = elapsed_ns - site.newest_ns
        del shown["lifetimes"]
        if "sizes" in shown:
            shown |= _sizes(site)
        if site.lifetimes is not None:
            shown["lived"] = _filled(site.lifetimes.counts)
        for example, one in zip(shown.get("examples", ()), site.examples, strict=True):
            del example["age_ms"]
            example["at_ns"] = elapsed_ns - one.age_ns
        return shown

    def _stack(self, site_id: str, stack: Stack) -> Object:
        """The number of a stack. Most are those of the report before, and to compare them with
        these is faster than to hash all their frames."""
        known = self._last_of.get(site_id)
        if known is None or known[0] != stack or known[1] not in self._written:
            known = stack, self._number_of(stack)
        self._last_of[site_id] = known
        self._used[known[1]] = known[0]
        return {"stack": known[1]}

    def _number_of(self, stack: Stack) -> int:
        number = self._numbers.get(stack)
        if number is None:
            number = self._stack_count
            self._stack_count += 1
            self._numbers[stack] = number
            self._written.add(number)
            self._new_stacks.append({"schema": STACK, "stack": number, **stack_object(stack)})
        return number


def _sizes(site: Site) -> Object:
    """How many blocks have which size, and their bytes: of one size, those are the site's."""
    shown: Object = {"sizes": _filled(site.sizes)}
    if site.size_bytes and not (len(shown["sizes"]) == 1 and sum(site.size_bytes) == site.bytes):
        shown["size_bytes"] = _filled(site.size_bytes)
    return shown


def _filled(histogram: Sequence[int]) -> Object:
    return {str(bits): value for bits, value in enumerate(histogram) if value}


def _mark(name: str, report: Report) -> Object:
    return {
        "schema": MARK,
        "name": printable(name, _LONGEST_MARK),
        "time": in_utc(report.time),
        "elapsed_s": round(report.elapsed_s, 3),
        "report": report.number,
    }


def _lines(values: list[Object]) -> bytes:
    """Raises OSError if one of them is too long to be read again."""
    lines = [_encoded(value) for value in values]
    if any(len(line) > LONGEST_LINE for line in lines):
        raise _too_long()
    return b"".join(lines)


def _encoded(value: Object) -> bytes:
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return f"{text}\n".encode("ascii")


def _too_long() -> OSError:
    return OSError(errno.EFBIG, f"a line would have more than {LONGEST_LINE >> 20} MiB")
