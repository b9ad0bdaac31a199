"""Where reports go: standard output, a file, or files by time.

What can't be written is counted, and tracing goes on (`delivery`). If that is so of the last
report, there is an `OutputError` at the end. When the reader of a pipe has closed it
(`leaktrace ... | head`), a plain `BrokenPipeError` propagates. That is not an error but the end
of the run: the caller detaches, prints nothing and exits with 0.
"""

from __future__ import annotations

import io
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, TextIO, TypeGuard, cast

from leaktrace.errors import OutputError
from leaktrace.own.standard_streams import is_closed, output_is_closed
from leaktrace.report.delivery import (
    Destination,
    DirectDestination,
    FileDestination,
    Message,
    Missing,
    QueuedDestination,
    SharedFile,
)
from leaktrace.report.periodic import PeriodicFiles, has_time


class ReportStream(io.TextIOBase):
    """A text stream of which each flush is a message to a destination."""

    def __init__(self, destination: Destination, descriptor: int | None, encoding: str) -> None:
        """`descriptor`: the file that it is, for those who ask about it; None: there is not one."""
        self.destination = destination
        self.call_count = 0  # of the next message
        self._descriptor = descriptor
        self._encoding = encoding
        self._pieces: list[str] = []

    @property
    def name(self) -> str:
        return self.destination.name

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        """Raises OSError if it is not one file."""
        if self._descriptor is None:
            raise io.UnsupportedOperation("it is not one file")
        return self._descriptor

    def isatty(self) -> bool:
        return self._descriptor is not None and os.isatty(self._descriptor)

    def write(self, text: str, /) -> int:
        self._pieces.append(text)
        return len(text)

    def flush(self) -> None:
        """Raises BrokenPipeError."""
        if self._pieces:
            text = "".join(self._pieces)
            self._pieces.clear()
            data = text.encode(self._encoding, "backslashreplace")
            self.destination.put(Message(data, self.call_count))

    def write_bytes(self, content: bytes) -> None:
        """Write one message of bytes. Raises BrokenPipeError, and what `Destination.put` does."""
        self.flush()
        self.destination.put(Message(content))


class Output:
    """The destination of reports, as a context manager; `stream` is the text stream."""

    def __init__(
        self,
        stream: TextIO,
        file: ReportFile | None = None,
        is_ending: Callable[[], bool] = lambda: False,
    ) -> None:
        self.stream = stream
        self._file = file
        self._is_ending = is_ending

    @property
    def missing(self) -> Missing:
        """What has not arrived until now."""
        return self.stream.destination.missing if _is_ours(self.stream) else Missing()

    def settle(self) -> None:
        """Before the last report is made: wait for the reader, so that the report has all that has
        not arrived. Raises BrokenPipeError."""
        if _is_ours(self.stream):
            self.stream.destination.settle()

    @contextmanager
    def calls(self, count: int) -> Iterator[None]:
        """While entered, what is written are so many traced calls."""
        if not _is_ours(self.stream):
            yield
            return
        self.stream.call_count = count
        try:
            yield
        finally:
            self.stream.call_count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if not _is_ours(self.stream):
                return
            if error is None:
                self.stream.flush()
                self.stream.destination.finish(self._is_ending)
            elif isinstance(error, Exception) and not isinstance(error, BrokenPipeError):
                self._finish_after(error)
        finally:
            if self._file is not None:
                self._file.close()
                self._file.remove_if_never_written()

    def _finish_after(self, error: Exception) -> None:
        """What was written before an error still arrives, if it is read. The error is on its way:
        no other takes its place."""
        assert _is_ours(self.stream)
        try:
            self.stream.destination.finish(lambda: True)
        except (OutputError, BrokenPipeError) as other:
            error.add_note(str(other))


def _is_ours(stream: TextIO | ReportStream) -> TypeGuard[ReportStream]:
    return isinstance(stream, ReportStream)


def open_output(
    path: Path | None,
    *,
    keep: int | None = None,
    is_ending: Callable[[], bool] = lambda: False,
    is_waiting: bool = False,
) -> Output:
    """Open the destination of reports: the file `path`, or standard output for None. `path` may be
    a pattern of a time; `keep`: how many of the files that it makes remain. `is_ending`: whether
    the run was told to end, so that a reader which doesn't read is not waited for long.
    `is_waiting`: nothing is traced meanwhile, so all of the output waits for its reader, and `path`
    is one file.

    Call it before anything else is started, so that a path that can't be written is reported in
    time. An existing file keeps its content until the first report is written. A file that is
    created here and never written is removed on exit, so a run that fails early changes nothing.

    Raises OutputError with the reason and what to do, and UsageError for a wrong pattern.
    """
    if path is None:
        return Output(_prepare_stdout(is_waiting=is_waiting), is_ending=is_ending)
    try:
        if has_time(path) and not is_waiting:
            return Output(_stream(PeriodicFiles(path, keep), None), is_ending=is_ending)
        file = ReportFile(path)
    except OSError as error:
        raise why_unwritable(path, error) from error
    destination: Destination
    if is_waiting:
        is_regular = file.is_regular
        write = file.write_message if is_regular else SharedFile(file.fileno()).write_message
        destination = DirectDestination(str(path), write)
    elif file.is_regular:
        destination = FileDestination(str(path), file.write_message)
    else:
        destination = QueuedDestination(str(path), file.fileno())
        file.is_written = True
    return Output(_stream(destination, file.fileno()), file, is_ending)


def _stream(destination: Destination, descriptor: int | None, encoding: str = "utf-8") -> TextIO:
    return ReportStream(destination, descriptor, encoding)  # type: ignore[return-value]


class ReportFile(io.FileIO):
    """A file opened for writing that the first write truncates, not the opening."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._created = False
        self.is_written = False
        super().__init__(os.fspath(path), "w", opener=self._open_keeping_content)
        self.is_regular = stat.S_ISREG(os.fstat(self.fileno()).st_mode)

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
        if not self.is_written:
            self.is_written = True
            if self.is_regular:
                self.truncate(0)
        return super().write(data)

    def write_message(self, data: bytes) -> None:
        """All of it, or nothing. Raises OSError."""
        begin = self.tell()
        try:
            while data:
                data = data[self.write(data) :]
        except OSError:
            self.truncate(begin)
            self.seek(begin)
            self.is_written = begin > 0
            raise

    def remove_if_never_written(self) -> None:
        """Remove the file if it was created here and never written."""
        if self._created and not self.is_written:
            self.path.unlink(missing_ok=True)


def _prepare_stdout(*, is_waiting: bool) -> TextIO:
    """Standard output, which escapes characters that its encoding lacks."""
    if is_closed(sys.stdout):
        raise output_is_closed()
    try:
        descriptor = sys.stdout.fileno()
        mode = os.fstat(descriptor).st_mode
    except (OSError, ValueError):
        return sys.stdout  # replaced by something that is no file
    sys.stdout.flush()
    name = "standard output"
    destination: Destination
    if is_waiting:
        destination = DirectDestination(name, SharedFile(descriptor).write_message)
    elif stat.S_ISREG(mode):
        destination = FileDestination(name, SharedFile(descriptor).write_message)
    else:
        destination = QueuedDestination(name, descriptor)
    return _stream(destination, descriptor, sys.stdout.encoding or "utf-8")


def write_content(output: TextIO, content: bytes | memoryview) -> None:
    """Write bytes, as one message. Raises BrokenPipeError, and OutputError for other failures."""
    try:
        if _is_ours(output):
            output.write_bytes(bytes(content))
            return
        output.flush()
        binary = cast(BinaryIO, getattr(output, "buffer"))  # noqa: B009 (no attribute of TextIO)
        binary.write(content)
        binary.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        name = getattr(output, "name", "the output")
        raise OutputError(
            f"can't write to {name}: {error.strerror}",
            "free some space there, or write somewhere else with --output",
        ) from error


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
