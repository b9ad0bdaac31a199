"""Of what each site allocated in each slice of time, how much is still there.

A slice with what is left of it is called a cohort, as in statistics of survival. Slices begin and
end at reports, so the difference between two reports says exactly how many blocks of each cohort
have gone in between: freed, or with a process that has ended. There are at most MOST_SLICES,
however long the trace is: the shortest neighbours are joined (bounded.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from leaktrace.analysis.verdicts.bounded import joined, thinned

MOST_SLICES = 64
_SLICES_PER_REPORT = 8  # of the first ones
_POWERS = 64
MOST_POINTS = 64  # in the series of totals
MOST_SITES = 8192  # that are watched: those that hold the most blocks and bytes

Floats = NDArray[np.float64]
_COUNTS, _WEIGHTS, _BYTES, _SQUARES = range(4)


@dataclass(frozen=True)
class Survivors:
    """Outstanding blocks as parallel arrays, without a Python object for each."""

    rows: NDArray[np.intp]  # of their sites in `stack_ids`
    times_ns: NDArray[np.int64]  # when they were allocated
    weights: Floats | None  # how many blocks each of them stands for; None: for itself
    sizes: Floats  # in bytes


@dataclass(frozen=True)
class History:
    """What is known of one site."""

    edges_s: Floats  # of the slices, from the start on; one more than there are slices
    counts: Floats  # blocks of each slice that are still there, as recorded
    weights: Floats  # how many blocks they stand for
    bytes: Floats  # how many bytes they stand for
    squares: Floats  # sum of the squares of what each of them stands for, in bytes
    # Blocks that were seen at one report and gone at the next, by age as in verdict.Lifetimes: by
    # the least and by the highest age that they may have reached.
    gone_least: Floats
    gone: Floats
    watched_s: float  # from when on: 0, unless there were too many sites
    allocated_s: float  # when it has allocated for the last time, at the latest
    times_s: Floats  # of reports
    held_bytes: Floats  # then
    held_counts: Floats


@dataclass
class Cohorts:
    """The histories of all watched sites."""

    start_ns: int
    _edges_ns: NDArray[np.int64] = field(init=False)
    _ids: NDArray[np.uint64] = field(init=False)  # sorted
    _left: Floats = field(init=False)  # [site, slice, _COUNTS…_SQUARES]
    _gone: Floats = field(init=False)  # [site, least and highest, power of two of the age in ns]
    _times_ns: NDArray[np.int64] = field(init=False)
    _held: Floats = field(init=False)  # [site, report, bytes and count]
    _watched_ns: NDArray[np.int64] = field(init=False)  # from when on, by site
    _allocated: NDArray[np.int64] = field(init=False)  # [site, number and time of the last one]
    _has_left_out: bool = field(init=False, default=False)  # sites, because there are too many

    def __post_init__(self) -> None:
        self._edges_ns = np.array([self.start_ns], dtype=np.int64)
        self._times_ns = np.empty(0, dtype=np.int64)
        self._ids = np.empty(0, dtype=np.uint64)
        self._left = np.zeros((0, 0, 4))
        self._gone = np.zeros((0, 2, _POWERS))
        self._held = np.zeros((0, 0, 2))
        self._watched_ns = np.empty(0, dtype=np.int64)
        self._allocated = np.zeros((0, 2), dtype=np.int64)

    @property
    def elapsed_s(self) -> float:
        """From the start to the last report."""
        return float(self._edges_ns[-1] - self.start_ns) / 1e9

    def add_blocks(self, time_ns: int, stack_ids: NDArray[np.uint64], survivors: Survivors) -> None:
        """Take in a report. `stack_ids`: the sites, sorted."""
        known_slices = len(self._edges_ns) - 1
        before_ns = int(self._edges_ns[-1])
        self._add_slices(time_ns)
        slices = len(self._edges_ns) - 1
        self._watch(stack_ids, survivors, before_ns)
        place = np.full(len(stack_ids), -1, dtype=np.intp)
        place[np.isin(stack_ids, self._ids, assume_unique=True)] = np.nonzero(
            np.isin(self._ids, stack_ids, assume_unique=True)
        )[0]
        rows, times_ns = place[survivors.rows], survivors.times_ns
        weights = survivors.weights
        sizes = survivors.sizes if weights is None else survivors.sizes * weights
        # Records that were made while the map was read belong to the next report.
        chosen = (rows >= 0) & (times_ns <= time_ns)
        if not chosen.all():
            rows, times_ns = rows[chosen], times_ns[chosen]
            sizes, weights = sizes[chosen], None if weights is None else weights[chosen]
        at = np.searchsorted(self._edges_ns[1:], times_ns)
        cells, shape = rows * slices + at, (len(self._ids), slices)

        def summed(values: Floats | None) -> Floats:
            sums = np.bincount(cells, weights=values, minlength=shape[0] * shape[1])
            return sums.reshape(shape).astype(np.float64)

        counts = summed(None)
        stand_for = counts if weights is None else summed(weights)
        left = np.stack([counts, stand_for, summed(sizes), summed(sizes**2)], axis=-1)
        if known_slices:
            gone = self._left[:, :known_slices, _COUNTS] - left[:, :known_slices, _COUNTS]
            self._add_gone(np.maximum(gone, 0), before_ns)
        self._left = left
        self._add_point(time_ns, left[:, :, _BYTES].sum(axis=1), left[:, :, _WEIGHTS].sum(axis=1))
        self._join_slices()

    def add_totals(
        self, time_ns: int, stack_ids: NDArray[np.uint64], held_bytes: Floats, held_counts: Floats
    ) -> None:
        """Take in a report of which only the totals of each site are known."""
        before_ns = int(self._edges_ns[-1])
        self._add_slices(time_ns)
        wanted = np.union1d(self._ids, stack_ids)
        if len(wanted) > MOST_SITES:
            wanted = np.sort(stack_ids[np.argsort(-held_bytes, kind="stable")[:MOST_SITES]])
            self._has_left_out = True
        self._keep(wanted, before_ns)
        totals = np.zeros((len(self._ids), 2))
        found = np.isin(stack_ids, self._ids, assume_unique=True)
        at = np.searchsorted(self._ids, stack_ids[found])
        totals[at, 0], totals[at, 1] = held_bytes[found], held_counts[found]
        self._left = np.zeros((len(self._ids), len(self._edges_ns) - 1, 4))
        self._add_point(time_ns, totals[:, 0], totals[:, 1])
        self._join_slices()

    def history(self, stack_id: int) -> History | None:
        """What is known of a site; None if it is not watched."""
        row = int(np.searchsorted(self._ids, np.uint64(stack_id)))
        if row == len(self._ids) or int(self._ids[row]) != stack_id:
            return None
        left = self._left[row]
        return History(
            edges_s=(self._edges_ns - self.start_ns) / 1e9,
            counts=left[:, _COUNTS],
            weights=left[:, _WEIGHTS],
            bytes=left[:, _BYTES],
            squares=left[:, _SQUARES],
            gone_least=self._gone[row, 0],
            gone=self._gone[row, 1],
            times_s=(self._times_ns - self.start_ns) / 1e9,
            held_bytes=self._held[row, :, 0],
            held_counts=self._held[row, :, 1],
            watched_s=float(self._watched_ns[row] - self.start_ns) / 1e9,
            allocated_s=float(self._allocated[row, 1] - self.start_ns) / 1e9,
        )

    def note_allocated(self, stack_ids: NDArray[np.uint64], counts: NDArray[np.int64]) -> None:
        """How many blocks these sites have allocated, up to the last report."""
        order = np.argsort(stack_ids)
        stack_ids, counts = stack_ids[order], counts[order]
        at = np.searchsorted(stack_ids, self._ids).clip(max=max(len(stack_ids) - 1, 0))
        known = stack_ids[at] == self._ids if len(stack_ids) else np.zeros(len(self._ids), bool)
        rows = np.nonzero(known)[0]
        more = counts[at[rows]] != self._allocated[rows, 0]
        self._allocated[rows[more], 1] = self._edges_ns[-1]
        self._allocated[rows, 0] = counts[at[rows]]

    def fastest(self, most: int) -> tuple[NDArray[np.uint64], int]:
        """The sites that may be growing the fastest, and how many more there may be: by what they
        allocated in the middle of the time and still hold, or by how their totals have risen."""
        start_ns, length_ns = int(self._edges_ns[0]), int(self._edges_ns[-1] - self._edges_ns[0])
        middle = (self._edges_ns[1:] > start_ns + length_ns // 4) & (
            self._edges_ns[:-1] < start_ns + length_ns * 3 // 4
        )
        held = self._left[:, middle, :].sum(axis=1)
        ranks = [held[:, _BYTES], held[:, _COUNTS]]
        if len(self._times_ns) > 1:
            earlier = int(np.searchsorted(self._times_ns, start_ns + length_ns // 2))
            earlier = min(earlier, len(self._times_ns) - 2)
            ranks.append(self._held[:, -1, 0] - self._held[:, earlier, 0])
        candidates = np.zeros(len(self._ids), dtype=bool)
        chosen: list[NDArray[np.intp]] = []
        for values in ranks:
            candidates |= values > 0
            best = np.argsort(-values)[:most]
            chosen.append(best[values[best] > 0])
        rows = np.unique(np.concatenate(chosen))
        return self._ids[rows], int(candidates.sum()) - len(rows)

    def rename(self, new_id: Callable[[int], int]) -> None:
        """Sites get other stack ids. Several may become one."""
        renamed = np.array([new_id(one) for one in self._ids.tolist()], dtype=np.uint64)
        ids, first, rows = np.unique(renamed, return_index=True, return_inverse=True)
        self._watched_ns, self._allocated = self._watched_ns[first], self._allocated[first]
        for name in ("_left", "_gone", "_held"):
            values = getattr(self, name)
            sums = np.zeros((len(ids), *values.shape[1:]))
            np.add.at(sums, rows, values)
            setattr(self, name, sums)
        self._ids = ids

    # --- slices of time ----------------------------------------------------------------------

    def _add_slices(self, time_ns: int) -> None:
        last_ns = int(self._edges_ns[-1])
        time_ns = max(time_ns, last_ns + 1)
        count = _SLICES_PER_REPORT
        if len(self._edges_ns) > 1:
            usual_ns = max((time_ns - self.start_ns) // (MOST_SLICES // 2), 1)
            count = min(max(round((time_ns - last_ns) / usual_ns), 1), _SLICES_PER_REPORT)
        count = min(count, time_ns - last_ns)
        new = np.linspace(last_ns, time_ns, count + 1)[1:].astype(np.int64)
        self._edges_ns = np.concatenate([self._edges_ns, new])

    def _join_slices(self) -> None:
        first = joined(self._edges_ns, MOST_SLICES)
        if len(first) < len(self._edges_ns) - 1:
            self._edges_ns = np.append(self._edges_ns[first], self._edges_ns[-1])
            self._left = np.add.reduceat(self._left, first, axis=1)

    # --- sites -------------------------------------------------------------------------------

    def _watch(self, stack_ids: NDArray[np.uint64], survivors: Survivors, before_ns: int) -> None:
        """Watch these sites, too, if there is room. A site that holds nothing any more stays: what
        it has freed says what may become of new blocks."""
        wanted = np.union1d(self._ids, stack_ids)
        if len(wanted) > MOST_SITES:
            length = len(stack_ids)
            counts = np.bincount(survivors.rows, minlength=length)
            sizes = np.bincount(survivors.rows, survivors.sizes, minlength=length)
            place = np.minimum(np.argsort(np.argsort(-counts)), np.argsort(np.argsort(-sizes)))
            wanted = np.sort(stack_ids[np.argsort(place, kind="stable")[:MOST_SITES]])
            self._has_left_out = True
        self._keep(wanted, before_ns)

    def _keep(self, ids: NDArray[np.uint64], before_ns: int) -> None:
        """Go on with these sites, of which some may be new. `before_ns`: the last report."""
        known = np.isin(ids, self._ids, assume_unique=True)
        rows = np.searchsorted(self._ids, ids[known])
        for name in ("_left", "_gone", "_held"):
            values = getattr(self, name)
            kept = np.zeros((len(ids), *values.shape[1:]))
            kept[known] = values[rows]
            setattr(self, name, kept)
        since_ns = before_ns if self._has_left_out else self.start_ns
        watched_ns = np.full(len(ids), since_ns, dtype=np.int64)
        watched_ns[known] = self._watched_ns[rows]
        allocated = np.zeros((len(ids), 2), dtype=np.int64)
        allocated[:, 1] = self._edges_ns[-1]
        allocated[known] = self._allocated[rows]
        self._watched_ns, self._allocated, self._ids = watched_ns, allocated, ids

    def _add_gone(self, gone: Floats, before_ns: int) -> None:
        """Blocks of the known slices have gone since the report before, which was then."""
        slices = gone.shape[1]
        least_ns = before_ns - self._edges_ns[1 : slices + 1]
        highest_ns = self._edges_ns[-1] - self._edges_ns[:slices]
        for which, ages_ns in enumerate((least_ns, highest_ns)):
            powers = np.floor(np.log2(np.maximum(ages_ns, 1))).astype(int) + 1
            powers[ages_ns < 1] = 0
            for power in np.unique(powers).tolist():
                at = min(power, _POWERS - 1)
                self._gone[:, which, at] += gone[:, powers == power].sum(axis=1)

    def _add_point(self, time_ns: int, held_bytes: Floats, held_counts: Floats) -> None:
        point = np.stack([held_bytes, held_counts], axis=-1)[:, None, :]
        self._held = np.concatenate([self._held, point], axis=1)
        self._times_ns = np.append(self._times_ns, time_ns)
        kept = thinned(self._times_ns, MOST_POINTS)
        if len(kept) < len(self._times_ns):
            self._times_ns, self._held = self._times_ns[kept], self._held[:, kept]
