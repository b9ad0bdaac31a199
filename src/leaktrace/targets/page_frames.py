"""Which frames of physical memory the pages of a process are in, and what the kernel says of them.

Sources: pagemap.rst in the kernel's documentation, include/uapi/linux/kernel-page-flags.h. Frame
numbers are shown to those with CAP_SYS_ADMIN only; to others they are 0.
"""

from __future__ import annotations

import os
from contextlib import closing

import numpy as np
from numpy.typing import NDArray

from leaktrace.errors import AS_ROOT_OR_DOCTOR, EnvironmentUnfitError
from leaktrace.own.closing import Closes
from leaktrace.targets.page_map import PAGE_BYTES, PageMap

NO_FRAME = np.uint64(0)  # never that of a page of a process

_ENTRY_BYTES = 8
_FLAGS = "/proc/kpageflags"
_COMPOUND_HEAD, _COMPOUND_TAIL, _IDLE = 1 << 15, 1 << 16, 1 << 25
_LARGEST_FOLIO_PAGES = 512  # a huge page; larger ones are of hugetlbfs, and not looked at


class Frames(Closes):
    """Frames by page, and their flags. As a context manager it is closed at the end."""

    def __init__(self) -> None:
        """Raises EnvironmentUnfitError where that must not be read."""
        try:
            self._flags = os.open(_FLAGS, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise EnvironmentUnfitError(
                f"{_FLAGS} can't be read: {error.strerror}", AS_ROOT_OR_DOCTOR
            ) from error
        own = bytearray(b"\1" * PAGE_BYTES)  # certainly in memory
        address = np.frombuffer(own, dtype=np.uint8).ctypes.data
        page = np.array([address // PAGE_BYTES * PAGE_BYTES], dtype=np.uint64)
        if not self.of_pages(os.getpid(), page).any():
            self.close()
            raise EnvironmentUnfitError(
                "the kernel hides in which page frames memory is (CAP_SYS_ADMIN is missing)",
                AS_ROOT_OR_DOCTOR,
            )

    def close(self) -> None:
        os.close(self._flags)

    def of_pages(self, pid: int, pages: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """The frame of each page, by its address; NO_FRAME if it is not in memory. Of a huge page,
        or another folio of several pages, it is the first frame: the kernel knows of the folio as a
        whole when it was used. Raises OSError when the process has ended."""
        with closing(PageMap(pid)) as page_map:
            frames = [self._first_of_folio(page_map.frame(page)) for page in pages.tolist()]
        return np.array(frames, dtype=np.uint64)

    def are_idle(self, frames: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Which of them carry the mark of idle pages: whoever set it would learn of an access."""
        marks = [self._flags_of(frame) & _IDLE != 0 for frame in frames.tolist()]
        return np.array(marks, dtype=bool)

    def _first_of_folio(self, frame: int) -> int:
        if frame == NO_FRAME or not self._flags_of(frame) & _COMPOUND_TAIL:
            return frame
        first = frame // _LARGEST_FOLIO_PAGES * _LARGEST_FOLIO_PAGES  # folios are aligned
        size = (frame - first) * _ENTRY_BYTES
        flags = np.frombuffer(os.pread(self._flags, size, first * _ENTRY_BYTES), dtype=np.uint64)
        heads = np.nonzero(flags & np.uint64(_COMPOUND_HEAD))[0]
        return first + int(heads[-1]) if len(heads) else int(NO_FRAME)

    def _flags_of(self, frame: int) -> int:
        data = os.pread(self._flags, _ENTRY_BYTES, frame * _ENTRY_BYTES)
        return int.from_bytes(data, "little")
