"""process_vm_writev(2): one word of another process's memory.

Unlike /proc/PID/mem it doesn't write where the process itself must not.
"""

from __future__ import annotations

import ctypes
import errno
import struct

import numpy as np

from leaktrace.errors import system_error
from leaktrace.targets.remote_read import transfer

_WRITEV = transfer("process_vm_writev")


def write_word(pid: int, address: int, value: int) -> None:
    """Write 64 bits at an address that is a multiple of 8: the process sees all of them, or none.

    Raises OSError: ESRCH when the process has ended, EPERM when its memory must not be written,
    EFAULT where it isn't mapped, or the process must not write itself.
    """
    if address % 8:
        raise ValueError(f"not aligned: {address:#x}")
    word = ctypes.create_string_buffer(struct.pack("<Q", value), 8)
    ours = np.array([ctypes.addressof(word), 8], dtype=np.uint64)
    theirs = np.array([address, 8], dtype=np.uint64)
    written = int(_WRITEV(pid, ours.ctypes.data, 1, theirs.ctypes.data, 1, 0))
    if written != 8:
        raise system_error(ctypes.get_errno() if written < 0 else errno.EFAULT)
