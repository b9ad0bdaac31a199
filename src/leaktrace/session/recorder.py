"""Records the reports of a run (--record), whatever becomes of the file."""

from __future__ import annotations

import errno
import platform
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from leaktrace import __version__
from leaktrace.errors import OutputError
from leaktrace.model import Report, TargetInfo
from leaktrace.notices import hint, notify
from leaktrace.options import CommonOptions, KernelOptions, ProcessOptions
from leaktrace.printable import printable
from leaktrace.recording.format import Object
from leaktrace.recording.left_out import without_contents
from leaktrace.recording.streams import LineFile
from leaktrace.recording.writer import LeftOut, RecordingWriter, RunInfo
from leaktrace.report.moment_json import target_object
from leaktrace.report.output import ReportFile, why_unwritable


class Recorder:
    """A failure to write is told once and counted. It never ends the run."""

    def __init__(self, file: ReportFile, options: CommonOptions) -> None:
        """Raises EnvironmentUnfitError if a package is missing."""
        assert options.record is not None
        self._options = options
        self._shown = printable(str(options.record.path))
        self._file = file
        self._lines = LineFile(file, options.record.path)
        self._writer: RecordingWriter | None = None
        self._mark: str | None = None
        self._missed = 0
        self._has_told_left_out = False
        self.failure: str | None = None  # why the last report is missing in the recording
        self._is_failing = False

    def begin(self, target: TargetInfo) -> None:
        """Tracing begins: write what the run is about."""
        info = RunInfo(
            __version__,
            datetime.now().astimezone(),
            {"kernel": platform.release(), "machine": platform.machine()},
            _target_object(target),
            _options_object(self._options),
        )
        self._writer = RecordingWriter(self._lines, info)
        try:
            self._writer.begin()
        except OSError as error:
            self._tell(error)

    def report(self, report: Report) -> None:
        """Record a report with all its sites. If that fails, `failure` says why."""
        assert self._writer is not None and self._options.record is not None
        recorded = report if self._options.record.contents else without_contents(report)
        self.failure = None
        try:
            self._writer.report(recorded, self._mark)
        except OSError as error:
            self.failure = error.strerror or str(error)
            self._missed += 1
            self._tell(error)
        else:
            if self._is_failing:
                notify(f"the recording {self._shown} is written again")
            self._is_failing = False
            self._tell_left_out(self._writer.left_out)

    @contextmanager
    def marked(self, name: str) -> Iterator[None]:
        """The report that is made while entered is made for a mark."""
        self._mark = name
        try:
            yield
        finally:
            self._mark = None

    def _tell_left_out(self, left_out: LeftOut | None) -> None:
        if left_out is not None and not self._has_told_left_out:
            self._has_told_left_out = True
            notify(
                f"the recording lists {left_out.listed:,} of {left_out.of:,} sites: a report has "
                "no more room"
            )

    def end(self) -> None:
        """No report follows."""
        assert self._writer is not None
        try:
            self._writer.end()
        except OSError as error:
            self._tell(error)
        if self._missed:
            reports = "one report is" if self._missed == 1 else f"{self._missed:,} reports are"
            notify(f"{reports} missing in {self._shown}: it could not be written")

    @property
    def has_gaps(self) -> bool:
        """Whether a report could not be written, and is missing."""
        return self._missed > 0

    def close(self) -> None:
        """Close the file; one that was created and never written is removed."""
        try:
            self._lines.close()
        except OSError as error:
            self._tell(error)
        self._file.remove_if_never_written()

    def _tell(self, error: OSError) -> None:
        if not self._is_failing:
            self._is_failing = True
            notify(f"can't write the recording to {self._shown}: {error.strerror or error}")
            is_limit = error.errno == errno.EFBIG  # setrlimit(2), or the writer's own
            what = (
                "raise the limit of file sizes (ulimit -f)" if is_limit else "free some space there"
            )
            hint(f"tracing goes on; each later report is tried again: {what}")


@contextmanager
def opened_recorder(options: CommonOptions) -> Iterator[Recorder | None]:
    """The recorder that was asked for; None: nothing is recorded. Raises OutputError, and
    EnvironmentUnfitError."""
    if options.record is None:
        yield None
        return
    path = options.record.path
    try:
        refuse_existing(path)
        file = ReportFile(path)
    except OSError as error:
        raise why_unwritable(path, error, "--record") from error
    try:
        recorder = Recorder(file, options)
    except BaseException:
        file.close()
        file.remove_if_never_written()
        raise
    try:
        yield recorder
    finally:
        recorder.close()


def refuse_existing(path: Path) -> None:
    """Raises OutputError for a file with a content, and for what is no file; OSError. A pipe that
    nobody reads is not even opened: that would wait."""
    try:
        known = path.stat()
    except FileNotFoundError:
        return
    shown = printable(str(path))
    if stat.S_ISDIR(known.st_mode):
        return  # opening it says so
    if not stat.S_ISREG(known.st_mode):
        raise OutputError(
            f"{shown} is not a regular file, and a recording needs one", "name a file"
        )
    if known.st_size:
        raise OutputError(
            f"{shown} exists, and a recording doesn't replace a file",
            "give another name, or remove it first",
        )


def _target_object(target: TargetInfo) -> Object:
    return {**target_object(target), "pids": list(target.pids)}


def _options_object(options: CommonOptions) -> Object:
    """The options that decide what the figures mean."""
    asked, filters = options.report, options.filters
    shown: Object = {
        "interval_s": asked.interval_s,
        "older_ms": asked.older_ms,
        "sort": asked.sort.value,
        "by": asked.by.value,
        "combined_only": asked.combined_only,
        "min_size_bytes": filters.min_size_bytes,
        "max_size_bytes": filters.max_size_bytes,
        "sample_rate": filters.sample_rate,
        "sample_bytes": filters.sample_bytes,
        "suppressions": [printable(one.pattern) for one in options.suppressions],
        "max_allocs": options.limits.max_allocs,
        "max_stacks": options.limits.max_stacks,
    }
    if isinstance(options, ProcessOptions):
        shown |= {
            "faults": options.faults,
            "follow": options.follow,
            "malloc": options.malloc,
            "fds": options.fds,
            "pairs": [printable(pair.name) for pair in options.pairs],
            "lost": None if options.lost is None else options.lost.value,
            "object": None if options.objects.path is None else printable(options.objects.path),
        }
    elif isinstance(options, KernelOptions):
        target = options.target
        shown |= {
            "pages": target.pages,
            "percpu": target.percpu,
            "vmalloc": target.vmalloc,
            "caches": [printable(one) for one in target.caches],
            "modules": [printable(one) for one in target.modules],
            "contexts": [one.value for one in target.contexts],
            "task_pid": target.task_pid,
        }
    return shown
