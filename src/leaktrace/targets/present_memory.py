"""Reads pages of another process that are in RAM, and no others.

Reading any other page would change the process: the kernel would map a page of zeros, or read a
page back from swap. /proc/PID/pagemap (Documentation/admin-guide/mm/pagemap.rst) says which are.
"""

from __future__ import annotations

import os
import struct
from contextlib import suppress

from leaktrace.own.closing import Closes
from leaktrace.targets.memory import ProcessMemory

_PAGE_BYTES = os.sysconf("SC_PAGESIZE")
_PRESENT = 1 << 63


class PresentMemory(Closes):
    """The memory of one process. Use it as a context manager."""

    def __init__(self, pid: int) -> None:
        """Without the privilege nothing can be read: `was_refused` is true then, or after the first
        `read`."""
        self.was_refused = False
        self._memory: ProcessMemory | None = None
        self._pagemap = -1
        try:
            self._pagemap = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
            self._memory = ProcessMemory(pid)
        except PermissionError:
            self.was_refused = True
        except OSError:  # it has ended
            pass

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes within one page; b"" if that page is not in RAM, or can't be read."""
        if self._memory is None or self._pagemap < 0:
            return b""
        try:
            entry = os.pread(self._pagemap, 8, address // _PAGE_BYTES * 8)
            if len(entry) < 8 or not struct.unpack("=Q", entry)[0] & _PRESENT:
                return b""
            found = self._memory.read(address, size)
        except PermissionError:
            self.was_refused = True
            return b""
        except (OSError, OverflowError):  # OverflowError: an address beyond 2^63 ([vsyscall])
            return b""
        return found if len(found) == size else b""

    def read_pages(self, address: int, size: int) -> bytes:
        """As much of `size` bytes as is in RAM."""
        found, end = b"", address + size
        while address < end:
            upto = min(end, (address // _PAGE_BYTES + 1) * _PAGE_BYTES)
            part = self.read(address, upto - address)
            if not part:
                break
            found, address = found + part, upto
        return found

    def close(self) -> None:
        if self._memory is not None:
            self._memory.close()
        if self._pagemap >= 0:
            with suppress(OSError):
                os.close(self._pagemap)
            self._pagemap = -1
