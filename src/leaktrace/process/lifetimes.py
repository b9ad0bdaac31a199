"""Reads how long blocks lived that were released, as the kernel side counts it for each site."""

from __future__ import annotations

import mmap

import numpy as np
from numpy.typing import NDArray

from leaktrace.abi import process as abi
from leaktrace.analysis.lifetimes import LifetimeCounts
from leaktrace.bpf.maps import Map
from leaktrace.errors import ProgramError

_POWERS = abi.FIRST_LIFETIME_POWER + abi.LIFETIME_POWERS
_BYTES = abi.LIFETIME_SITES * abi.LIFETIMES.itemsize
_MAPPED_BYTES = -(-_BYTES // mmap.PAGESIZE) * mmap.PAGESIZE


class SiteLifetimes:
    """The kernel side's map of lifetimes.

    It counts modulo 2**32, which a busy site exceeds after an hour or two. So what each read adds
    is added up here: reads must not be farther apart than that.
    """

    def __init__(self, counts: Map) -> None:
        self._map = counts
        # By entry of the map. Pages of zeros that are never written take no memory.
        shape = (abi.LIFETIME_SITES, abi.LIFETIME_POWERS)
        self._last = np.zeros(shape, dtype=np.uint32)
        self._totals = np.zeros(shape, dtype=np.uint64)

    def read(self, stack_ids: NDArray[np.uint64]) -> LifetimeCounts:
        """The lifetimes of these sites. Raises ProgramError when the map can't be read."""
        entries = self._entries()
        at, known = _find(entries, stack_ids)
        places = at[known]
        now = entries["counts"][places]
        added = now - self._last[places]  # modulo 2**32
        self._totals[places] += added
        self._last[places] = now
        counts = np.zeros((len(stack_ids), _POWERS), dtype=np.uint64)
        counts[known, abi.FIRST_LIFETIME_POWER :] = self._totals[places]
        return LifetimeCounts(counts, known)

    def forget(self, stack_ids: NDArray[np.uint64]) -> None:
        """Make room: these sites are gone. Raises ProgramError when the map can't be written."""
        entries = self._entries()
        at, known = _find(entries, stack_ids)
        places = at[known]
        entries["counts"][places] = 0
        entries["watched"][places] = 0
        entries["stack_id"][places] = 0
        # Last, because from then on another site may take the entry.
        entries["claims"][places] = 0
        self._last[places] = 0
        self._totals[places] = 0

    def has(self, stack_id: int) -> bool:
        """Whether a site has lifetimes. Raises ProgramError."""
        _, known = _find(self._entries(), np.array([stack_id], dtype=np.uint64))
        return bool(known[0])

    def set_watch(self, stack_id: int, number: int) -> None:
        """Which watch is kept on the releases of a site, 0: none. Raises ProgramError."""
        entries = self._entries()
        at, known = _find(entries, np.array([stack_id], dtype=np.uint64))
        entries["watched"][at[known]] = number

    def _entries(self) -> NDArray[np.void]:
        """The map's memory. Nothing may keep it for long: it counts as resident."""
        try:
            memory = mmap.mmap(self._map.fd, _MAPPED_BYTES, mmap.MAP_SHARED)
        except OSError as error:
            raise ProgramError(
                f"the map of lifetimes can't be read: {error.strerror}", "try again"
            ) from None
        return np.frombuffer(memory, dtype=abi.LIFETIMES, count=abi.LIFETIME_SITES)


def _find(
    entries: NDArray[np.void], stack_ids: NDArray[np.uint64]
) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Where the entries of sites are, and whether they have one (bpf/process/lifetimes.bpf.c)."""
    ways = np.arange(abi.LIFETIME_WAYS, dtype=np.uint64)
    mask = np.uint64(abi.LIFETIME_SITES - 1)
    candidates = ((stack_ids[:, np.newaxis] + ways) & mask).astype(np.intp)
    matches = entries["stack_id"][candidates] == stack_ids[:, np.newaxis]
    known = matches.any(axis=1) & (stack_ids != 0)
    return candidates[np.arange(len(stack_ids)), matches.argmax(axis=1)], known
