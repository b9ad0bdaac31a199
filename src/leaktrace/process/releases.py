"""Which stacks release the blocks of chosen sites, as the kernel side counts it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from leaktrace.abi import process as abi
from leaktrace.bpf.maps import Map
from leaktrace.process.lifetimes import SiteLifetimes

KEY = np.dtype(f"V{abi.RELEASE.itemsize}")  # abi.RELEASE, as a map has it


class WatchedReleases:
    """The watches on sites (bpf/process/releases.bpf.c)."""

    def __init__(self, lifetimes: SiteLifetimes, watches: Map, releases: Map) -> None:
        self._lifetimes = lifetimes
        self._watches = watches
        self._releases = releases
        self._by_site: dict[int, int] = {}  # the numbers of the watches, from 1; oldest first

    def watch(self, stack_ids: Sequence[int]) -> None:
        """Watch the releases of these sites, as many as there are watches. Sites that are watched
        already stay so, as long as there is room."""
        wanted = list(dict.fromkeys(stack_ids))[: abi.WATCHES]
        for site in wanted:
            if site not in self._by_site and self._lifetimes.has(site):
                self._begin(site, self._free_number(set(wanted)))

    def counts(self) -> dict[int, dict[int, int]]:
        """By site: how many of its blocks were released from which stack since it is watched. They
        are estimates if there were many. Stack id 0: from stacks that aren't known."""
        found: defaultdict[int, dict[int, int]] = defaultdict(dict)
        keys, counts = self._read()
        for (site, stack_id), count in zip(keys.tolist(), counts.tolist(), strict=True):
            if count and site in self._by_site:
                found[site][stack_id] = count
        return dict(found)

    def forget(self, stack_ids: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """These sites are gone. Returns the stacks from which only they were released."""
        keys, _ = self._read()
        gone = np.isin(keys["site"], stack_ids)
        for site in stack_ids.tolist():
            number = self._by_site.pop(site, None)
            if number is not None:
                self._watches.update(number - 1, np.zeros(1, dtype=abi.WATCH))
        self._releases.delete_all(keys[gone].view(KEY))
        return np.setdiff1d(keys["stack_id"][gone], keys["stack_id"][~gone])

    def _free_number(self, wanted: set[int]) -> int:
        used = set(self._by_site.values())
        free = [number for number in range(1, abi.WATCHES + 1) if number not in used]
        if free:
            return free[0]
        oldest = next(site for site in self._by_site if site not in wanted)
        number = self._by_site[oldest]
        self._lifetimes.set_watch(oldest, 0)
        self.forget(np.array([oldest], dtype=np.uint64))
        return number

    def _begin(self, site: int, number: int) -> None:
        lost = np.array([(site, 0)], dtype=abi.RELEASE).tobytes()
        is_new = self._releases.insert(lost, np.zeros(1, dtype=np.uint64))
        if not is_new and self._releases.lookup(lost) is None:
            return  # no room
        watch = np.zeros(1, dtype=abi.WATCH)
        watch["site"] = site
        self._watches.update(number - 1, watch)
        self._by_site[site] = number
        self._lifetimes.set_watch(site, number)  # last: from then on the kernel side counts

    def _read(self) -> tuple[NDArray[np.void], NDArray[np.uint64]]:
        keys, counts = self._releases.read_all()
        return keys.view(abi.RELEASE), counts
