"""Memory of a process, as bytes or for reading (leaktrace dump)."""

from __future__ import annotations

from typing import Protocol, TextIO

from leaktrace.errors import OutputError
from leaktrace.report.hexdump import BYTES, hexdump

_ZEROS = bytes(1 << 20)


class DumpWriter(Protocol):
    """Takes what was read, by ascending address."""

    def data(self, address: int, data: bytes) -> None:
        """Bytes at an address."""

    def hole(self, address: int, size: int) -> None:
        """Bytes that can't be read."""


class RawWriter:
    """Bytes as they are, and zeros for those that can't be read."""

    def __init__(self, output: TextIO) -> None:
        self._output = output

    def data(self, address: int, data: bytes) -> None:
        with _Explained(self._output):
            self._output.buffer.write(data)
            self._output.buffer.flush()

    def hole(self, address: int, size: int) -> None:
        while size > 0:
            self.data(address, _ZEROS[:size])
            size -= len(_ZEROS)


class HexWriter:
    """Rows of bytes, with the text beside them. Rows like the one before are one `*`."""

    def __init__(self, output: TextIO) -> None:
        self._output = output
        self._next = -1  # the address that would go on without a gap
        self._last = ""
        self._is_starred = False
        self._rest = b""  # less than a row

    def data(self, address: int, data: bytes) -> None:
        if address != self._next:
            self.end()
        self._next = address + len(data)
        data, start = self._rest + data, address - len(self._rest)
        whole = len(data) - len(data) % BYTES
        self._rows(start, data[:whole])
        self._rest = data[whole:]

    def hole(self, address: int, size: int) -> None:
        self.end()
        self._write([f"{address:#014x}  ({size:,} bytes can't be read)"])

    def end(self) -> None:
        """Nothing follows without a gap."""
        starred = self._is_starred and not self._rest
        rest, start = self._rest, self._next - len(self._rest)
        self._last, self._is_starred, self._rest = "", False, b""
        if rest:
            self._rows(start, rest)
            self._last = ""
        elif starred:  # how long it goes on
            self._write([f"{self._next:#014x}"])
        self._next = -1

    def _rows(self, start: int, data: bytes) -> None:
        lines = []
        for offset, text in hexdump(data):
            if text != self._last:
                lines.append(f"{start + offset:#014x}  {text}")
                self._is_starred = False
            elif not self._is_starred:
                lines.append("*")
                self._is_starred = True
            self._last = text
        self._write(lines)

    def _write(self, lines: list[str]) -> None:
        with _Explained(self._output):
            self._output.write("".join(f"{line}\n" for line in lines))
            self._output.flush()


class _Explained:
    """Turns a failure to write into an OutputError; a closed pipe stays what it is."""

    def __init__(self, output: TextIO) -> None:
        self._output = output

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
            name = getattr(self._output, "name", "the output")
            raise OutputError(
                f"can't write the memory to {name}: {error.strerror}",
                "free some space there, or write somewhere else with --output",
            ) from error
