"""What every report format has in common: where it writes, and how it is told what happened.

A reporter consumes `Report` and `Event` values and writes text to a stream; it knows no BPF and no
process. The session drives it:

    with open_output(options.report.output) as output:      # before anything is traced
        reporter = create_reporter(options.report.format, output.stream, sys.stderr)
        reporter.begin(target, command)
        reporter.report(report)                             # once an interval
        reporter.end()

Errors: everything that goes wrong with the output is an `OutputError`, except one: when the reader
of a pipe has gone (`leaktrace ... | head`) the plain `BrokenPipeError` travels up. That is no
error but the quiet end of the run: the caller detaches, prints nothing and exits 0. It must leave
the `with open_output(...)` block, which then makes sure that the interpreter does not complain
about the broken stdout when it exits.
"""

from __future__ import annotations

import io
import os
import stat
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self, TextIO

from leaktrace.errors import OutputError
from leaktrace.model import Event, Report, TargetInfo
from leaktrace.own.standard_streams import is_closed, output_is_closed

USUAL_COLUMNS = 80
_NARROWEST = 40  # on a terminal narrower than this, lines wrap


class Reporter(ABC):
    """One format. `output` gets the reports, `notices` what the format has no place for."""

    summary: ClassVar[str]  # one line for --help

    def __init__(self, output: TextIO, notices: TextIO) -> None:
        self.output = output
        self.notices = notices

    def begin(self, target: TargetInfo, command: Sequence[str] = ()) -> None:  # noqa: B027
        """Tracing is about to start; `command` is the one that leaktrace runs, if it does."""

    @abstractmethod
    def report(self, report: Report) -> None:
        """Write one report and flush it."""

    def event(self, event: Event) -> None:
        """Write one event and flush it."""
        self.events((event,))

    @abstractmethod
    def events(self, events: Iterable[Event]) -> None:
        """Write a batch of events, one a line, and flush once."""

    def end(self) -> None:  # noqa: B027
        """No report follows. Formats that need a closing line write it here."""

    def write(self, text: str) -> None:
        """Write `text` to the output at once.

        Raises:
            BrokenPipeError: the reader is gone; the quiet end of the run.
            OutputError: it can't be written: disk full, a quota, an I/O error.
        """
        try:
            self.output.write(text)
            self.output.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            name = getattr(self.output, "name", "the output")
            raise OutputError(
                f"can't write the report to {name}: {error.strerror}",
                "free some space there, or choose another place with --output",
            ) from error

    def notice(self, text: str) -> None:
        """Write a line to the second stream; one that is closed or broken is no reason to stop."""
        try:
            self.notices.write(f"{text}\n")
            self.notices.flush()
        except (OSError, ValueError):
            return


def terminal_width(output: TextIO) -> int | None:
    """The columns of the terminal that `output` is, at least 40; None for files and pipes."""
    if not output.isatty():
        return None
    try:
        columns = os.get_terminal_size(output.fileno()).columns
    except OSError:
        columns = 0
    return max(columns or USUAL_COLUMNS, _NARROWEST)


class Output:
    """Where reports go, as a context manager; `stream` is the text stream to write to."""

    def __init__(self, stream: TextIO, file: _ReportFile | None = None) -> None:
        self.stream = stream
        self._file = file

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._close_file(self._file, failed=error is not None)
        elif isinstance(error, BrokenPipeError | OutputError):
            _silence(self.stream)

    def _close_file(self, file: _ReportFile, failed: bool) -> None:
        try:
            self.stream.close()
        except OSError as error:
            # What could not be written before can't be written now: once is enough to say so.
            if not failed:
                raise OutputError(
                    f"can't write the report to {file.path}: {error.strerror}",
                    "free some space there, or choose another place with --output",
                ) from error
        finally:
            file.remove_if_never_written()


def open_output(path: Path | None) -> Output:
    """Open where reports go: the file `path`, or standard output for None.

    Call it before anything else is started: a path that can't be written is then found out in
    time. A file that exists keeps its content until the first report is written, and one that was
    created here and never written is removed on leaving, so a run that fails early changes nothing.

    Raises OutputError with the reason and what to do.
    """
    if path is None:
        return Output(_prepare_stdout())
    try:
        file = _ReportFile(path)
    except OSError as error:
        raise _why_unwritable(path, error) from error
    stream = io.TextIOWrapper(
        io.BufferedWriter(file), encoding="utf-8", errors="backslashreplace", newline="\n"
    )
    return Output(stream, file)


class _ReportFile(io.FileIO):
    """A file opened for writing that is emptied by the first write, not by the opening."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._created = False
        self._written = False
        super().__init__(os.fspath(path), "w", opener=self._open_keeping_content)
        self._is_regular = stat.S_ISREG(os.fstat(self.fileno()).st_mode)

    def _open_keeping_content(self, path: str, flags: int) -> int:
        keeping = flags & ~(os.O_TRUNC | os.O_CREAT)
        try:
            return os.open(path, keeping)
        except FileNotFoundError:
            # O_EXCL tells for certain that the file is ours to remove again. It does not follow
            # a dangling symbolic link, which nobody asks for.
            descriptor = os.open(path, keeping | os.O_CREAT | os.O_EXCL, 0o666)
            self._created = True
            return descriptor

    def write(self, data: Any, /) -> int:  # noqa: ANN401 (a buffer: no name for it in 3.11)
        if not self._written:
            self._written = True
            if self._is_regular:
                self.truncate(0)
        return super().write(data)

    def remove_if_never_written(self) -> None:
        """Remove the file if it was created here and nothing was written to it."""
        if self._created and not self._written:
            self.path.unlink(missing_ok=True)


def _prepare_stdout() -> TextIO:
    """Standard output, made unable to fail over a name that its encoding lacks."""
    if is_closed(sys.stdout):
        raise output_is_closed()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
        if isinstance(sys.stdout.buffer, io.RawIOBase):
            # With PYTHONUNBUFFERED or -u. A write to a full pipe that a signal interrupts is cut
            # short there, and nobody writes the rest; a buffered stream does.
            raw = io.FileIO(sys.stdout.fileno(), "wb", closefd=False)
            raw.name = sys.stdout.name
            return io.TextIOWrapper(
                io.BufferedWriter(raw), encoding=sys.stdout.encoding, errors="backslashreplace"
            )
    return sys.stdout


def _silence(stream: TextIO) -> None:
    """Send what is still buffered and can't be written to /dev/null."""
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):
        return  # not a real stream, so nothing will be flushed into a pipe
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)


def _why_unwritable(path: Path, error: OSError) -> OutputError:
    folder = path.parent
    if isinstance(error, IsADirectoryError):
        return OutputError(f"can't write to {path}: it is a folder", "name a file in it")
    if isinstance(error, FileNotFoundError) and not folder.is_dir():
        return OutputError(
            f"can't write to {path}: the folder {folder} doesn't exist",
            f"create it first: mkdir -p {folder}",
        )
    if isinstance(error, NotADirectoryError):
        return OutputError(f"can't write to {path}: {folder} is not a folder", "check the path")
    if isinstance(error, FileExistsError):
        return OutputError(
            f"can't write to {path}: it is a symbolic link to a file that doesn't exist",
            "remove the link, or name the file itself",
        )
    if isinstance(error, PermissionError):
        return OutputError(
            f"can't write to {path}: permission denied",
            "choose a place that this user may write to",
        )
    return OutputError(
        f"can't write to {path}: {error.strerror}", "choose another place with --output"
    )
