"""DAMON: since when the kernel has seen no access to frames of physical memory.

The kernel thread kdamond clears the accessed bit in the page tables at each look, and finds out
at the next look whether the processor has set it again. It remembers the bit for the kernel's own
decisions (PG_young), so that nothing else changes for the process: no fault, no stop. A look at one
frame takes a microsecond. (The thread keeps its priority: an access between its look at the bit and
the moment when it clears the bit is missed, so it should not be interrupted there.)

DAMON watches regions, and of each looks at one page at random. So each region here is one page
(the lower limit of their number keeps it from joining them). There are as many regions as frames,
and no more than `MOST_FRAMES`. A frame whose folio DAMON can't mark looks as if it was never used:
callers check the mark (page_frames.py).

Sources: usage.rst of DAMON in the kernel's documentation; mm/damon/core.c, paddr.c, sysfs.c.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leaktrace.errors import EnvironmentUnfitError
from leaktrace.targets.page_map import PAGE_BYTES

MOST_FRAMES = 4096
LOOK_S = 1.0  # between two looks at each frame

ADMIN = Path("/sys/kernel/mm/damon/admin/kdamonds")
_NR = "nr_kdamonds"
_LOOK_US = int(LOOK_S * 1e6)
_NEVER_US = 1_000_000_000_000
_FEWEST_REGIONS = 3  # DAMON's own limit
_ANY = (("sz", (1 << 64) - 1), ("nr_accesses", (1 << 32) - 1), ("age", (1 << 32) - 1))
# The files have one lock for all. Whoever comes second is turned away, also by a mere read.
_TRIES, _PAUSE_S = 30, 0.1

UNDO = ((ADMIN / "0/state", "off"), (ADMIN / _NR, "0"))  # what `close` writes

_NEEDS = "it needs Linux 6.2 with CONFIG_DAMON_SYSFS and CONFIG_DAMON_PADDR"


class Damon:
    """Watches frames from the first call of `watch` until `close`."""

    def __init__(self) -> None:
        """Raises EnvironmentUnfitError when the kernel has no DAMON for physical memory, or someone
        else uses it."""
        reserve()
        self._context = ADMIN / "0/contexts/0"
        self._runs = False
        try:
            self._describe()
        except OSError as error:
            release()
            raise EnvironmentUnfitError(
                f"DAMON can't be used: {error.strerror} ({error.filename})", _NEEDS
            ) from error

    def watch(self, frames: NDArray[np.uint64]) -> None:
        """Watch these frames from now on: sorted, without repetitions. What is known of those among
        them that were watched already is kept. Waits for a look. Raises OSError."""
        assert len(frames) <= MOST_FRAMES
        if not len(frames):
            return
        regions = self._context / "targets/0/regions"
        _write(self._context / "monitoring_attrs/nr_regions/max", 2 * MOST_FRAMES)
        _write(self._context / "monitoring_attrs/nr_regions/min", max(len(frames), _FEWEST_REGIONS))
        _write(regions / "nr_regions", len(frames))
        for number, frame in enumerate(frames.tolist()):
            _write(regions / str(number) / "start", frame * PAGE_BYTES)
            _write(regions / str(number) / "end", (frame + 1) * PAGE_BYTES)
        if self._runs:
            _write(ADMIN / "0/state", "commit")
            return
        _write(ADMIN / "0/state", "on")
        self._runs = True

    def ages_s(self, frames: NDArray[np.uint64]) -> NDArray[np.float64]:
        """For how long each frame was not accessed, in steps of LOOK_S; 0 if it was accessed before
        the last look, nan if it is not watched. Waits for a look. Raises OSError."""
        ages = np.full(len(frames), np.nan)
        if not (self._runs and len(frames)):
            return ages
        _write(ADMIN / "0/state", "update_schemes_tried_regions")
        tried = self._context / "schemes/0/tried_regions"
        known: dict[int, float] = {}
        for entry in os.scandir(tried):
            if entry.name.isdecimal():
                region = Path(entry.path)
                is_used = int(_read(region / "nr_accesses")) > 0
                age_s = 0.0 if is_used else int(_read(region / "age")) * LOOK_S
                known[int(_read(region / "start")) // PAGE_BYTES] = age_s
        return np.array([known.get(frame, np.nan) for frame in frames.tolist()])

    def close(self) -> None:
        """Stop the kernel's thread."""
        release()

    def _describe(self) -> None:
        """Everything but the regions. Raises OSError."""
        context = self._context
        _write(ADMIN / "0/contexts/nr_contexts", 1)
        _write(context / "operations", "paddr")
        intervals = context / "monitoring_attrs/intervals"
        _write(intervals / "sample_us", _LOOK_US)
        _write(intervals / "aggr_us", _LOOK_US)  # the age counts these
        _write(intervals / "update_us", _NEVER_US)
        _write(context / "targets/nr_targets", 1)
        _write(context / "schemes/nr_schemes", 1)
        scheme = context / "schemes/0"
        (scheme / "tried_regions").stat()
        _write(scheme / "action", "stat")  # do nothing but list the regions
        for quantity, most in _ANY:
            _write(scheme / "access_pattern" / quantity / "min", 0)
            _write(scheme / "access_pattern" / quantity / "max", most)


def reserve() -> None:
    """Make the directories of one kdamond. Raises EnvironmentUnfitError."""
    try:
        used = int(_read(ADMIN / _NR))
    except FileNotFoundError as error:
        raise EnvironmentUnfitError("this kernel has no DAMON", _NEEDS) from error
    except OSError as error:
        raise EnvironmentUnfitError(f"{ADMIN}: {error.strerror}", "run as root") from error
    if used:
        raise EnvironmentUnfitError(
            f"DAMON is in use: {ADMIN / _NR} is {used}",
            "end the program that uses it; if it is gone: echo off > "
            f"{ADMIN}/0/state; echo 0 > {ADMIN / _NR}",
        )
    try:
        _write(ADMIN / _NR, 1)
    except OSError as error:
        raise EnvironmentUnfitError(
            f"DAMON can't be used: {error.strerror} ({ADMIN / _NR})", _NEEDS
        ) from error


def release() -> None:
    """Stop the kdamond and remove its directories."""
    for path, value in UNDO:
        with contextlib.suppress(OSError):
            _write(path, value)


def _write(path: Path, value: object) -> None:
    """Raises OSError, with the path."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        for left in reversed(range(_TRIES)):
            try:
                os.write(descriptor, str(value).encode())
            except OSError as error:
                if error.errno == errno.EBUSY and left:
                    time.sleep(_PAUSE_S)
                    continue
                raise OSError(error.errno, error.strerror, str(path)) from None
            return
    finally:
        os.close(descriptor)


def _read(path: Path) -> str:
    """Raises OSError."""
    with path.open() as file:
        return file.read().strip()
