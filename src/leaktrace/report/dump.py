"""Memory of a process, as bytes or for reading (leaktrace dump)."""

from __future__ import annotations

from typing import Protocol, TextIO

from leaktrace.report.hexdump import BYTES, hexdump
from leaktrace.report.output import write_content

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
        write_content(self._output, data)

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
        self._output.write("".join(f"{line}\n" for line in lines))
        self._output.flush()
