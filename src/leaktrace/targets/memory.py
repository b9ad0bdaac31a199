"""The memory of another process, read only.

/proc/PID/mem belongs to the user of the process: for a process of another user it takes
CAP_DAC_READ_SEARCH and CAP_SYS_PTRACE. process_vm_readv(2) needs only the latter, but can't read
pages that the process itself can't read, so it is the fallback.
"""

from __future__ import annotations

import ctypes
import errno
import os

from leaktrace.errors import system_error
from leaktrace.own.closing import Closes


class _Vector(ctypes.Structure):
    """struct iovec"""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class ProcessMemory(Closes):
    """The memory of one process. Close it, or use it as a context manager."""

    def __init__(self, pid: int) -> None:
        """Raises OSError when the process has ended. A missing privilege is reported by `read`."""
        self._pid = pid
        self._file = -1
        try:
            self._file = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
        except PermissionError:
            self._libc = ctypes.CDLL(None, use_errno=True)

    def read(self, address: int, size: int) -> bytes:
        """At most `size` bytes; fewer if the memory after them is not mapped. Raises OSError."""
        if self._file >= 0:
            return os.pread(self._file, size, address)
        buffer = ctypes.create_string_buffer(size)
        ours = _Vector(ctypes.addressof(buffer), size)
        theirs = _Vector(address, size)
        one = ctypes.c_ulong(1)
        result = self._libc.process_vm_readv(
            self._pid, ctypes.byref(ours), one, ctypes.byref(theirs), one, ctypes.c_ulong(0)
        )
        if result < 0:
            raise system_error(ctypes.get_errno() or errno.EFAULT)
        return buffer.raw[:result]

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
