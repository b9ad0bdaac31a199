"""process_vm_readv(2): many ranges of another process's memory by one call."""

from __future__ import annotations

import ctypes
import errno
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leaktrace.errors import system_error

MOST_RANGES = 1024  # IOV_MAX


def transfer(name: str) -> Any:  # noqa: ANN401 (a function of C)
    """process_vm_readv or process_vm_writev of the C library."""
    call = getattr(ctypes.CDLL(None, use_errno=True), name)
    call.restype = ctypes.c_ssize_t
    call.argtypes = (
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_ulong,
        ctypes.c_void_p,
        ctypes.c_ulong,
        ctypes.c_ulong,
    )
    return call


_READV = transfer("process_vm_readv")


def read_into(room: int, pid: int, ranges: NDArray[np.uint64]) -> int:
    """Copy the ranges [start, end), n x 2, at most MOST_RANGES, one after the other to our address
    `room`. Returns how many bytes were read before something could not be: it is not mapped, or the
    process itself must not read it at the moment.

    Raises OSError: ESRCH when the process has ended, EPERM when its memory must not be read.
    """
    theirs = ranges.copy()
    theirs[:, 1] -= theirs[:, 0]
    ours = np.array([room, theirs[:, 1].sum()], dtype=np.uint64)
    got = int(_READV(pid, ours.ctypes.data, 1, theirs.ctypes.data, len(theirs), 0))
    if got >= 0:
        return got
    code = ctypes.get_errno()
    if code in (errno.EFAULT, errno.EIO, errno.ENOMEM):
        return 0
    raise system_error(code or errno.ESRCH)
