"""One run of `leaktrace dump`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from leaktrace import units
from leaktrace.errors import NothingTracedError, TargetError
from leaktrace.notices import notify
from leaktrace.options import DumpOptions
from leaktrace.own.interrupts import Interrupts, NothingToEndError
from leaktrace.report import open_output
from leaktrace.report.dump import HexWriter, RawWriter
from leaktrace.targets.access import require_access
from leaktrace.targets.dump_choice import Part, by_address, by_name
from leaktrace.targets.dump_memory import DumpReader, Piece
from leaktrace.targets.mappings import read_mappings
from leaktrace.targets.process import Process

_MOST_NAMED = 10  # ranges that can't be read


def run_dump(options: DumpOptions) -> int:
    """Write the memory that was asked for. Returns the exit code. Raises LeaktraceError, and
    BrokenPipeError when the reader of the output has closed the pipe."""
    with open_output(options.output, is_waiting=True) as output, Interrupts() as interrupts:
        run = _Run(options)
        try:
            with interrupts.raised(), closing(Process(options.pid)) as process:
                is_hex = options.is_hex
                if is_hex is None:
                    is_hex = output.stream.isatty()
                writer = HexWriter(output.stream) if is_hex else RawWriter(output.stream)
                run.write(process, writer)
        except NothingToEndError:
            raise NothingTracedError(
                f"interrupted: {run.done_bytes:,} of {run.wanted_bytes:,} bytes were written",
                "run it again for all of it",
            ) from None
    return 0


class _Run:
    """What was written so far."""

    def __init__(self, options: DumpOptions) -> None:
        self._options = options
        self._holes: list[tuple[int, int]] = []  # start, end
        # Those that are not written yet. If nothing can be read, a file is to keep its contents.
        self._waiting: list[tuple[int, int]] = []
        self._has_data = False
        self.wanted_bytes = 0
        self.done_bytes = 0  # those that can't be read, too

    def write(self, process: Process, writer: HexWriter | RawWriter) -> None:
        """Raises LeaktraceError."""
        pid = process.pid
        require_access(pid)
        with DumpReader(pid) as reader:
            parts = self._parts()
            # If it is still there, its id was never that of another process.
            if not process.is_alive():
                raise TargetError(f"process {pid} has ended", "check the process id")
            self.wanted_bytes = sum(part.end - part.start for part in parts)
            if self._options.takes_all:
                self._tell(parts)
            for part in parts:
                for piece in reader.read(part):
                    self._take(piece, writer)
        self._refuse_nothing()
        self._write_holes(writer)
        if isinstance(writer, HexWriter):
            writer.end()
        self._tell_holes(is_raw=isinstance(writer, RawWriter))

    def _take(self, piece: Piece, writer: HexWriter | RawWriter) -> None:
        if piece.data is None:
            _extend(self._holes, piece)
            _extend(self._waiting, piece)
            return
        self._has_data = True
        self._write_holes(writer)
        writer.data(piece.start, piece.data)
        self.done_bytes += piece.size

    def _write_holes(self, writer: HexWriter | RawWriter) -> None:
        for start, end in self._waiting:
            writer.hole(start, end - start)
            self.done_bytes += end - start
        self._waiting.clear()

    def _parts(self) -> list[Part]:
        options, mappings = self._options, read_mappings(self._options.pid)
        if isinstance(options.what, int):
            return by_address(mappings, options.what, options.size)
        return by_name(mappings, options.what, options.size, takes_all=options.takes_all)

    def _tell(self, parts: Sequence[Part]) -> None:
        """Where each of several mappings is in the output."""
        offset = 0
        for part in parts:
            size = part.end - part.start
            permissions = "" if part.mapping is None else f" {part.mapping.permissions}"
            notify(f"{part.start:#x}-{part.end:#x}{permissions}: {size:,} bytes, at {offset:#x}")
            offset += size

    def _tell_holes(self, *, is_raw: bool) -> None:
        """What can't be read."""
        size = sum(end - start for start, end in self._holes)
        if size:
            instead = "; zeros are written in their place" if is_raw else ""
            what = f"{size:,} of {self.wanted_bytes:,} bytes can't be read"
            notify(f"{what}: {self._ranges()}{instead}")

    def _refuse_nothing(self) -> None:
        """Raise TargetError if nothing can be read."""
        if not self._has_data:
            raise TargetError(
                f"none of the {self.wanted_bytes:,} bytes can be read: {self._ranges()}",
                "it is memory of the kernel or of a device, or behind the end of a file",
            )

    def _ranges(self) -> str:
        shown = ", ".join(f"{start:#x}-{end:#x}" for start, end in self._holes[:_MOST_NAMED])
        more = len(self._holes) - _MOST_NAMED
        return f"{shown}, and {units.counted(more, 'range')} more" if more > 0 else shown


def _extend(holes: list[tuple[int, int]], piece: Piece) -> None:
    """Add what can't be read; what goes on where the last one ends is one."""
    start = piece.start
    if holes and holes[-1][1] == start:
        start = holes.pop()[0]
    holes.append((start, piece.start + piece.size))
