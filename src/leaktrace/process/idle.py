"""Finds out which memory of the traced processes is not used, for reports (--idle)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from leaktrace.analysis.block_classes import SLOT_SHIFT
from leaktrace.analysis.block_use import BlockUse
from leaktrace.analysis.idle_pages import pages_to_watch, use_of_blocks
from leaktrace.analysis.snapshot import Snapshot
from leaktrace.idle import IdleInfo
from leaktrace.model import Report
from leaktrace.own.interrupts import held_back
from leaktrace.own.translations import Translations
from leaktrace.process.tracer import Tracer
from leaktrace.process.watched_pages import WatchedPages
from leaktrace.targets.damon import MOST_FRAMES, UNDO, Damon
from leaktrace.targets.page_frames import Frames
from leaktrace.targets.page_map import PAGE_BYTES
from leaktrace.targets.processors import processors_of

_PUMP_S = 0.05
_LOOKS_PER_PERIOD = 20  # at most: a look waits for the kernel, about a second
_ADDRESS_BITS = np.uint64((1 << int(SLOT_SHIFT)) - 1)

_Pids = Mapping[int, int]  # by slot


class IdlePages:
    """The pages that are watched. The kernel is asked by another thread, since it lets wait."""

    def __init__(self, tracer: Tracer, for_s: float) -> None:
        """`for_s`: a page is idle if it was not touched for so long. Raises EnvironmentUnfitError
        where the kernel can't tell."""
        self._tracer = tracer
        self._for_s = for_s
        self._frames = Frames()
        tracer.on_close(self._frames.close)
        self._damon = Damon()
        tracer.on_close(self._damon.close)
        tracer.undo_if_killed(UNDO)
        self._translations = Translations()
        self._worker = ThreadPoolExecutor(1)
        tracer.on_close(self._worker.shutdown)
        self._at_work: Future[None] | None = None
        self._pages = WatchedPages.none()  # only the worker replaces it
        self._watched = self._pages.frames  # by DAMON, now
        self._looked_s = 0.0  # when the last look began
        self._is_new = False  # and the pages to watch were not chosen again since
        self._problem: str | None = None

    def look(self, pump: Callable[[], None], *, is_last: bool) -> None:
        """Ask the kernel what was used, if the last answer is old or `is_last`. `pump`: called
        meanwhile, so that what the kernel side sends is taken in."""
        now_s = time.monotonic()
        if is_last or now_s - self._looked_s >= self._for_s / _LOOKS_PER_PERIOD:
            self._looked_s = now_s
            self._await(pump)
            pids = self._pids()
            self._submit(lambda: self._look_at_pages(pids))
            self._await(pump)
            self._is_new = not is_last

    def add_to(self, snapshot: Snapshot) -> Snapshot:
        """The snapshot, with what is known of the use of its blocks. Pages of it will be watched
        until the next look."""
        if snapshot.record_slots is None:
            return snapshot
        if self._is_new:
            self._is_new = False
            pids = self._pids()
            # In the other thread, since it takes a second for millions of blocks.
            self._submit(lambda: self._watch(pages_to_watch(snapshot, PAGE_BYTES), pids))
        pages = self._pages
        known = pages.known(self._for_s)
        use = use_of_blocks(
            snapshot,
            pages.keys[known],
            pages.idle(self._for_s)[known],
            int(pages.looked_s * 1e9),
            PAGE_BYTES,
        )
        return replace(snapshot, idle=BlockUse(use, self._for_s))

    def describe(self, report: Report) -> Report:
        """The report, with how its pages were watched."""
        pages, now_s = self._pages, time.monotonic()
        watched_s = pages.looked_s - pages.since_s
        info = IdleInfo(
            for_s=self._for_s,
            watched_pages=len(pages),
            known_pages=int(np.count_nonzero(pages.known(self._for_s))),
            idle_pages=int(np.count_nonzero(pages.idle(self._for_s))),
            watched_s=float(np.nanmax(watched_s)) if (~np.isnan(watched_s)).any() else 0.0,
            age_s=now_s - pages.looked_s if pages.looked_s else 0.0,
            problems=() if self._problem is None else (self._problem,),
        )
        return replace(report, idle=info)

    def _pids(self) -> _Pids:
        return {member.number: member.pid for member in self._tracer.family.living}

    def _submit(self, work: Callable[[], None]) -> None:
        if self._problem is None:
            try:
                with held_back():  # signals go to the main thread
                    self._at_work = self._worker.submit(work)
            except RuntimeError:
                self._problem = "no more threads can be started"

    def _await(self, pump: Callable[[], None]) -> None:
        if self._at_work is None:
            return
        while not wait([self._at_work], _PUMP_S).done:
            pump()
        try:
            self._at_work.result()
        except OSError as error:
            self._problem = f"DAMON can't be used any more: {error.strerror}"
            self._pages = WatchedPages.none()
        self._at_work = None

    # --- in the other thread -----------------------------------------------------------------

    def _look_at_pages(self, pids: _Pids) -> None:
        """Raises OSError."""
        pages = self._pages
        if not len(pages):
            return
        ages_s = self._damon.ages_s(pages.frames)
        frames = self._frames_of(pages.keys, pids)
        is_marked = self._frames.are_idle(frames)
        processors = {one for pid in pids.values() for one in processors_of(pid)}
        refused = self._translations.forget_on(sorted(processors))
        if refused:
            self._problem = f"leaktrace may not run on processor {refused[0]}, as the process may"
            self._pages = WatchedPages.none()
            return
        self._pages = pages.looked_at(time.monotonic(), frames, is_marked, ages_s)

    def _watch(self, wanted: NDArray[np.uint64], pids: _Pids) -> None:
        """Raises OSError."""
        frames = self._frames_of(wanted, pids)
        is_there = frames != 0
        pages = self._pages.only(wanted[is_there], frames[is_there])
        watched = np.unique(pages.frames)
        assert len(watched) <= MOST_FRAMES  # as many pages are chosen at most
        if len(watched) and not np.array_equal(watched, self._watched):
            self._damon.watch(watched)
            self._watched = watched
        self._pages = pages

    def _frames_of(self, keys: NDArray[np.uint64], pids: _Pids) -> NDArray[np.uint64]:
        """NO_FRAME for the pages of processes that have ended."""
        frames = np.zeros(len(keys), dtype=np.uint64)
        slots = keys >> SLOT_SHIFT
        for slot in np.unique(slots).tolist():
            rows = np.nonzero(slots == slot)[0]
            if slot in pids:
                try:
                    frames[rows] = self._frames.of_pages(pids[slot], keys[rows] & _ADDRESS_BITS)
                except OSError:  # it has ended
                    continue
        return frames
