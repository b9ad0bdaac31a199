"""Adds what is in blocks to the sites of a report (--contents)."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from leaktrace.analysis.contents.shared import shared_by
from leaktrace.analysis.family import FamilyBuilder
from leaktrace.analysis.snapshot import Snapshot
from leaktrace.contents import BlockContents, ContentsInfo, SiteContents
from leaktrace.errors import LeaktraceError
from leaktrace.model import Report
from leaktrace.own.closing import Closes
from leaktrace.process.block_reader import BlockReader, ended
from leaktrace.process.tracer import Tracer
from leaktrace.site import Site
from leaktrace.symbols.data_names import Tables, new_tables

MOST_SITES = 5
MOST_BLOCKS = 300  # of a site: enough to see what they share
MOST_SHOWN = 3
_MOST_SITES_NAMED = 1000  # that blocks point to


class ContentsReader:
    """Reads blocks of the sites that reports show."""

    def __init__(self, tracer: Tracer, builder: FamilyBuilder) -> None:
        """`builder`: that of the reports."""
        self._tracer = tracer
        self._builder = builder
        self._tables = new_tables()

    def add_to(self, report: Report, snapshot: Snapshot) -> Report:
        """The report of a snapshot, with blocks of its first sites, the suspicious ones before
        others. (Sites that are only recorded are none of them.)"""
        shown = dict(zip(self._builder.shown, report.sites, strict=True))
        chosen = sorted(
            list(shown)[: report.top], key=lambda stack_id: not _is_suspicious(shown[stack_id])
        )
        rows = {one: self._oldest(snapshot, one) for one in chosen[:MOST_SITES]}
        with _Look(self._tracer, self._builder, snapshot, self._tables) as look:
            found = {one: look.site(some) for one, some in rows.items()}
        return replace(
            report,
            sites=tuple(replace(site, contents=found.get(one)) for one, site in shown.items()),
            contents=ContentsInfo(tuple(look.problems)),
        )

    def _oldest(self, snapshot: Snapshot, stack_id: int) -> NDArray[np.intp]:
        """The rows of the oldest blocks of a site, the oldest first. (Regions are none.)"""
        records = snapshot.records[: len(snapshot.records) - snapshot.region_count]
        stack_ids = np.array(self._builder.all_of(stack_id), dtype=np.uint64)
        rows = np.nonzero(np.isin(records["stack_id"], stack_ids))[0]
        oldest: NDArray[np.intp] = rows[np.argsort(records["time_ns"][rows], kind="stable")]
        return oldest[:MOST_BLOCKS]


def _is_suspicious(site: Site) -> bool:
    return site.verdict is not None and site.verdict.is_suspicious


class _Look(Closes):
    """Reads blocks of all processes for one report. Use it as a context manager."""

    def __init__(
        self, tracer: Tracer, builder: FamilyBuilder, snapshot: Snapshot, tables: Tables
    ) -> None:
        self._tracer = tracer
        self._builder = builder
        self._snapshot = snapshot
        self._tables = tables
        self._readers: dict[int, BlockReader | None] = {}  # by slot; None: it can't be read
        self._site_ids: dict[int, str] = {}  # by stack id
        self._resources = ExitStack()
        self.problems: dict[str, None] = {}  # in their order

    def site(self, rows: NDArray[np.intp]) -> SiteContents | None:
        """These blocks of one site; None if none can be read."""
        blocks: list[BlockContents] = []
        gone = 0
        for row in rows.tolist():
            reader = self._reader_of(row)
            try:
                block = None if reader is None else reader.read(row)
            except LeaktraceError as error:
                self._give_up(self._slot_of(row), error)
                continue
            if block is not None:
                blocks.append(block)
            gone += reader is not None and block is None
        if not blocks and not gone:
            return None
        return SiteContents(len(blocks), gone, shared_by(blocks), tuple(blocks[:MOST_SHOWN]))

    def _slot_of(self, row: int) -> int:
        slots = self._snapshot.record_slots
        return self._tracer.family.first.number if slots is None else int(slots[row])

    def _reader_of(self, row: int) -> BlockReader | None:
        slot = self._slot_of(row)
        if slot not in self._readers:
            self._readers[slot] = None
            try:
                self._readers[slot] = self._open(slot)
            except LeaktraceError as error:
                self._give_up(slot, error)
        return self._readers[slot]

    def _open(self, slot: int) -> BlockReader | None:
        member = self._tracer.family.of_slot(slot)
        if member is None:
            return None
        if member.has_ended or not member.traced.process.is_alive():
            raise ended(member.pid)
        reader = BlockReader(
            member,
            self._tracer.program,
            self._snapshot,
            self._tables,
            self._site_id_of,
            shows_pid=len(self._tracer.family) > 1,
        )
        return self._resources.enter_context(reader)

    def _give_up(self, slot: int, error: LeaktraceError) -> None:
        self._readers[slot] = None
        self.problems[error.message] = None

    def _site_id_of(self, stack_id: int) -> str | None:
        if stack_id not in self._site_ids:
            if len(self._site_ids) >= _MOST_SITES_NAMED:
                return None
            self._site_ids[stack_id] = self._builder.site_id_of(stack_id)
        return self._site_ids[stack_id]

    def close(self) -> None:
        self._resources.close()
