"""Where reports go: standard output or a file.

Every failure to write is an `OutputError`, except one: when the reader of a pipe has closed it
(`leaktrace ... | head`), the plain `BrokenPipeError` propagates. That is not an error but the end
of the run: the caller detaches, prints nothing and exits with 0. It must leave the
`with open_output(...)` block, which then makes sure that the interpreter does not complain about
the broken stdout when it exits.
"""

from __future__ import annotations

import io
import os
import stat
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from leaktrace.errors import OutputError
from leaktrace.own.standard_streams import is_closed, output_is_closed


class Output:
    """The destination of reports, as a context manager; `stream` is the text stream."""

    def __init__(self, stream: TextIO, file: ReportFile | None = None) -> None:
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

    def _close_file(self, file: ReportFile, failed: bool) -> None:
        try:
            self.stream.close()
        except OSError as error:
            # If a write failed before, that error is already on its way.
            if not failed:
                raise OutputError(
                    f"can't write the report to {file.path}: {error.strerror}",
                    "free some space there, or write somewhere else with --output",
                ) from error
        finally:
            file.remove_if_never_written()


def open_output(path: Path | None) -> Output:
    """Open the destination of reports: the file `path`, or standard output for None.

    Call it before anything else is started, so that a path that can't be written is reported in
    time. An existing file keeps its content until the first report is written. A file that is
    created here and never written is removed on exit, so a run that fails early changes nothing.

    Raises OutputError with the reason and what to do.
    """
    if path is None:
        return Output(_prepare_stdout())
    try:
        file = ReportFile(path)
    except OSError as error:
        raise why_unwritable(path, error) from error
    stream = io.TextIOWrapper(
        io.BufferedWriter(file), encoding="utf-8", errors="backslashreplace", newline="\n"
    )
    return Output(stream, file)


class ReportFile(io.FileIO):
    """A file opened for writing that the first write truncates, not the opening."""

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
            # With O_EXCL, the file is certainly ours to remove again. It does not follow a dangling
            # symbolic link, which is refused (FileExistsError).
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
        """Remove the file if it was created here and never written."""
        if self._created and not self._written:
            self.path.unlink(missing_ok=True)


def _prepare_stdout() -> TextIO:
    """Standard output, which escapes characters that its encoding lacks."""
    if is_closed(sys.stdout):
        raise output_is_closed()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
        if isinstance(sys.stdout.buffer, io.RawIOBase):
            # With PYTHONUNBUFFERED or -u: a signal cuts a write to a full pipe short, and an
            # unbuffered stream drops the rest. A buffered one writes it.
            raw = io.FileIO(sys.stdout.fileno(), "wb", closefd=False)
            raw.name = sys.stdout.name
            return io.TextIOWrapper(
                io.BufferedWriter(raw), encoding=sys.stdout.encoding, errors="backslashreplace"
            )
    return sys.stdout


def _silence(stream: TextIO) -> None:
    """Redirect `stream` to /dev/null, so that flushing what is still buffered can't fail."""
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):
        return  # not a file, so nothing will be flushed into a pipe
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)


def why_unwritable(path: Path, error: OSError, option: str = "--output") -> OutputError:
    """Why a file can't be opened for writing. `option` named it."""
    folder = path.parent
    if isinstance(error, IsADirectoryError):
        return OutputError(f"can't write to {path}: it is a directory", "name a file in it")
    if isinstance(error, FileNotFoundError) and not folder.is_dir():
        return OutputError(
            f"can't write to {path}: the directory {folder} doesn't exist",
            f"create it first: mkdir -p {folder}",
        )
    if isinstance(error, NotADirectoryError):
        return OutputError(f"can't write to {path}: {folder} is not a directory", "check the path")
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
        f"can't write to {path}: {error.strerror}", f"write somewhere else with {option}"
    )
