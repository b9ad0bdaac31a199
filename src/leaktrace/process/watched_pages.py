"""What is known of the pages that are watched, from look to look (--idle)."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from leaktrace.targets.page_frames import NO_FRAME

_MOST_FORGOTTEN = 1000


@dataclass(frozen=True)
class WatchedPages:
    """Pages by ascending key (analysis/idle_pages.py); all columns have the same length. Times are
    of CLOCK_MONOTONIC, in seconds."""

    keys: NDArray[np.uint64]
    frames: NDArray[np.uint64]  # that were watched for them since the last look
    since_s: NDArray[np.float64]  # from when on each access would have been seen; nan: not yet
    idle_s: NDArray[np.float64]  # for how long there was none, at the last look; nan: not known
    looked_s: float = 0.0  # when that was
    # When processors were made to forget what they had looked up (own/translations.py), before the
    # last look; the last ones, in order.
    forgotten_s: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))

    @classmethod
    def none(cls) -> WatchedPages:
        nothing = np.empty(0)
        return cls(nothing.astype(np.uint64), nothing.astype(np.uint64), nothing, nothing)

    def __len__(self) -> int:
        return len(self.keys)

    def looked_at(
        self,
        now_s: float,
        frames: NDArray[np.uint64],
        is_marked: NDArray[np.bool_],
        ages_s: NDArray[np.float64],
    ) -> WatchedPages:
        """After a look. `frames`: where the pages are now; `is_marked`: whether these carry the
        mark of idle pages; `ages_s`: for how long no access to the frames of before was seen, nan:
        not known. `now_s`: processors have forgotten what they had looked up just now.

        From an access that was seen until processors forget again, further ones may be missed. So a
        page counts as idle from then on only.

        A page that has moved to another frame, or was released, is unknown from then on. So is one
        without the mark: the kernel could not set it, or something else has taken it away.
        """
        holds = (frames == self.frames) & (frames != NO_FRAME) & is_marked & ~np.isnan(ages_s)
        since_s = np.where(np.isnan(self.since_s), now_s, self.since_s)
        forgotten_s = np.append(self.forgotten_s, now_s)
        next_s = forgotten_s[
            np.searchsorted(self.forgotten_s, now_s - np.where(holds, ages_s, 0.0), side="left")
        ]
        return WatchedPages(
            self.keys,
            frames,
            np.where(holds, since_s, np.nan),
            np.where(holds, now_s - np.maximum(next_s, since_s), np.nan),
            now_s,
            forgotten_s[-_MOST_FORGOTTEN:],
        )

    def only(self, keys: NDArray[np.uint64], frames: NDArray[np.uint64]) -> WatchedPages:
        """Other pages, with what is known of those among them that were watched before. `frames`:
        where they are."""
        since_s, idle_s = np.full((2, len(keys)), np.nan)
        if len(self.keys):
            at = np.searchsorted(self.keys, keys).clip(max=len(self.keys) - 1)
            is_same = (self.keys[at] == keys) & (self.frames[at] == frames)
            since_s[is_same], idle_s[is_same] = self.since_s[at[is_same]], self.idle_s[at[is_same]]
        return WatchedPages(keys, frames, since_s, idle_s, self.looked_s, self.forgotten_s)

    def known(self, for_s: float) -> NDArray[np.bool_]:
        """Which pages have been watched for so long, at the last look."""
        known: NDArray[np.bool_] = self.looked_s - self.since_s >= for_s  # False for nan
        return known & ~np.isnan(self.idle_s)

    def idle(self, for_s: float) -> NDArray[np.bool_]:
        """Which pages were not touched for so long."""
        idle: NDArray[np.bool_] = self.known(for_s) & (self.idle_s >= for_s)
        return idle
