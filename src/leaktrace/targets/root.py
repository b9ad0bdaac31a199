"""The file system as a process sees it: its root directory, even in another mount namespace."""

from __future__ import annotations

import ctypes
import errno
import os
import weakref

from leaktrace.files import for_reading

# openat2(2): resolve symbolic links as if the directory were the root, and refuse magic links, so
# that a link in a hostile root can't lead to a file outside of it.
_SYS_OPENAT2 = 437  # the same on every architecture
_RESOLVE_NO_MAGICLINKS, _RESOLVE_IN_ROOT = 0x02, 0x10


class _OpenHow(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


class TargetRoot:
    """A root directory that is held open: it stays reachable after the end of the process."""

    def __init__(self, path: str) -> None:
        """`path` is a directory, such as /proc/PID/root. Raises OSError."""
        self.descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self.descriptor)

    def open(self, path: str, *, follow: bool = True) -> int:
        """A descriptor, for reading, of a regular file by its absolute path within the root.

        Raises OSError, and its subclass NotRegularError.
        """
        return for_reading(self.find(path, follow=follow), path)

    def find(self, path: str, *, follow: bool = True) -> int:
        """A file of any kind by its absolute path within the root: an O_PATH descriptor, as for
        `for_reading`. Raises OSError."""
        flags = os.O_PATH | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
        how = _OpenHow(flags, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
        libc = ctypes.CDLL(None, use_errno=True)
        result: int = libc.syscall(
            _SYS_OPENAT2,
            ctypes.c_int(self.descriptor),
            ctypes.c_char_p(os.fsencode(path)),
            ctypes.byref(how),
            ctypes.c_size_t(ctypes.sizeof(how)),
        )
        if result >= 0:
            return result
        code = ctypes.get_errno()
        if code not in (errno.ENOSYS, errno.EPERM):
            raise OSError(code, os.strerror(code), path)
        # Linux before 5.6, or a seccomp filter without openat2: links are resolved in our own root.
        return os.open(path.lstrip("/"), flags, dir_fd=self.descriptor)

    def same_as(self, path: str) -> bool:
        """Whether a path leads to this directory."""
        ours, other = os.fstat(self.descriptor), os.stat(path)  # noqa: PTH116 - next to fstat
        return (ours.st_dev, ours.st_ino) == (other.st_dev, other.st_ino)
