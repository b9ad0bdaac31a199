"""Writes a recording: the reports of a run, with all their sites."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from leaktrace.model import Report, Site, Stack
from leaktrace.printable import printable
from leaktrace.recording.changes import SiteChanges
from leaktrace.recording.format import CHANGES, END, MARK, RECORDING, STACK, Object, site_lists
from leaktrace.recording.streams import LineFile
from leaktrace.report.json_lines import report_object
from leaktrace.report.json_sites import site_object, stack_object

_LONGEST_MARK = 200  # characters of a name


@dataclass(frozen=True)
class RunInfo:
    """What the first line says about a run."""

    version: str  # of leaktrace
    started: datetime
    host: Object
    target: Object
    options: Object


class RecordingWriter:
    """Writes lines to a file. After a failure the next report is written whole."""

    def __init__(self, file: LineFile, info: RunInfo) -> None:
        self._file = file
        self._info = info
        self._has_begun = False
        self._stacks: dict[Stack, int] = {}
        self._stack_count = 0
        self._new_stacks: list[Object] = []
        self._used: dict[Stack, int] = {}
        self._lists: dict[str, SiteChanges] = {}
        self._is_first = True
        self._missed = 0  # reports that could not be written since the last one that was
        self.reports = 0

    def begin(self) -> None:
        """Write the first line. Raises OSError."""
        self._file.write(_lines([self._header()]))
        self._has_begun = True

    def mark(self, name: str, time: datetime, elapsed_s: float, report: int) -> None:
        """Write a mark, before the report that is made for it. Raises OSError."""
        mark: Object = {
            "schema": MARK,
            "name": printable(name, _LONGEST_MARK),
            "time": _in_utc(time),
            "elapsed_s": round(elapsed_s, 3),
            "report": report,
        }
        self._file.write(_lines([mark]))

    def report(self, report: Report) -> None:
        """Write a report. Raises OSError: then it is missing in the recording."""
        try:
            changes = self._changes(report)
            begin = [] if self._has_begun else [self._header()]
            self._file.write(_lines([*begin, *self._new_stacks, changes]))
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

    def _start_over(self) -> None:
        """What the file has is what it had before."""
        self._stacks, self._lists, self._is_first = {}, {}, True

    def _header(self) -> Object:
        info = self._info
        return {
            "schema": RECORDING,
            "time": _in_utc(info.started),
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
        if self._is_first:
            whole["whole"] = True
        if self._missed:
            whole["missed"] = self._missed
        lists = {}
        for name, part in site_lists(whole):
            changes = lists[name] = self._lists.get(name) or SiteChanges()
            part.update(changes.of(part["sites"], report.sort, report.top))
        self._lists = lists
        self._stacks = self._used  # stacks that no site has any more are forgotten
        return whole

    def _site(self, site: Site, elapsed_ns: int) -> Object:
        """A site with absolute times and the number of its stack."""
        shown = site_object(site, self._stack)
        del shown["oldest_ms"], shown["newest_ms"]
        if site.oldest_ns is not None:
            shown["oldest_at_ns"] = elapsed_ns - site.oldest_ns
        if site.newest_ns is not None:
            shown["newest_at_ns"] = elapsed_ns - site.newest_ns
        del shown["lifetimes"]
        if site.lifetimes is not None:
            counts = enumerate(site.lifetimes.counts)
            shown["lived"] = {str(power): count for power, count in counts if count}
        for example, one in zip(shown.get("examples", ()), site.examples, strict=True):
            del example["age_ms"]
            example["at_ns"] = elapsed_ns - one.age_ns
        return shown

    def _stack(self, stack: Stack) -> Object:
        number = self._used.get(stack)
        if number is None:
            number = self._stacks.get(stack)
            if number is None:
                number = self._stack_count
                self._stack_count += 1
                line = {"schema": STACK, "stack": number, **stack_object(stack)}
                self._new_stacks.append(line)
            self._used[stack] = number
        return {"stack": number}


def _lines(values: list[Object]) -> bytes:
    return b"".join(_encoded(values))


def _encoded(values: list[Object]) -> Iterator[bytes]:
    for value in values:
        text = json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
        yield f"{text}\n".encode("ascii")


def _in_utc(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
