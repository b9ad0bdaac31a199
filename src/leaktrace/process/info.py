"""A traced process as reports describe it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from leaktrace.model import TargetInfo
from leaktrace.own.descriptors import POOL
from leaktrace.process import notes
from leaktrace.process.attach.attachments import HookedObject
from leaktrace.process.family import Family
from leaktrace.process.probes.passed_over import notes_of
from leaktrace.process.traced import Traced
from leaktrace.targets.stopped import why_stopped

_MOST_LISTED = 5  # processes in a note


def describe_family(family: Family, *, verbose: bool) -> TargetInfo:
    """All traced processes, and the notes about them."""
    infos = [describe_target(member.traced, verbose=verbose) for member in family]
    absent = (*notes.of_untraced(family.untraced), *notes.of_dropped(family.dropped))
    if len(infos) == 1:
        return replace(infos[0], notes=(*infos[0].notes, *absent))
    said: dict[str, list[int]] = {}
    for info in infos:
        for note in info.notes:
            said.setdefault(note, []).append(info.pid)
    shown = tuple(
        note if len(pids) == len(infos) else f"{_listed(pids)}: {note}"
        for note, pids in said.items()
    )
    allocators = dict.fromkeys(one for info in infos for one in info.allocators)
    return replace(
        infos[0],
        allocators=tuple(allocators),
        notes=(*shown, *absent),
        pids=tuple(info.pid for info in infos),
        stopped="",
    )


def _listed(pids: Sequence[int]) -> str:
    more = f" and {len(pids) - _MOST_LISTED} more" if len(pids) > _MOST_LISTED else ""
    return f"pid {', '.join(map(str, pids[:_MOST_LISTED]))}{more}"


def describe_target(traced: Traced, *, verbose: bool) -> TargetInfo:
    """What is traced, and the notes about it. `verbose`: also why names and tables are missing."""
    stopped = why_stopped(traced.pid) if traced.process.is_alive() else ""
    hooked = traced.hooked()
    return TargetInfo(
        pid=traced.pid,
        command=traced.process.read_name(),
        allocators=(
            ("page faults",)
            if traced.faults is not None
            else (
                *(f"{one.name}: {len(one.functions)} functions" for one in hooked),
                *_pairs(traced),
                *(["file descriptors"] if traced.slot.program.descriptor_calls is not None else []),
            )
        ),
        notes=tuple(dict.fromkeys(_notes(traced, hooked, stopped, verbose=verbose))),
        stopped=stopped,
    )


def _pairs(traced: Traced) -> Iterator[str]:
    """The objects in which functions are hooked that the user named."""
    planner = traced.hooks.pairs
    functions: dict[str, list[str]] = {}
    for state in [] if planner is None else planner.states:
        for path in state.objects_in(traced.has_mapped):
            functions.setdefault(path, []).append(state.pair.allocate)
    yield from (f"{Path(path).name}: {', '.join(names)}" for path, names in functions.items())


def _notes(
    traced: Traced, hooked: list[HookedObject], stopped: str, *, verbose: bool
) -> Iterator[str]:
    yield from traced.notes
    if traced.has_ended_unseen():
        yield notes.ENDED_UNSEEN
    if traced.children_note:
        yield traced.children_note
    yield from notes_of(traced.hooks.planner.passed_over)
    if stopped:
        yield stopped
    own = POOL.note()
    if own:
        yield own
    if not hooked and traced.faults is None and traced.hooks.options.malloc:
        yield notes.NO_ALLOCATOR_AFTER_EXEC
    if traced.hooks.pairs is not None:
        yield from traced.hooks.pairs.notes(traced.has_mapped)
    yield from traced.probe_notes
    if traced.faults is not None:
        yield from traced.faults.notes()
    if len(traced.symbolizer.views) != 1 and not traced.hooks.is_loader_hooked:
        yield notes.LIBRARIES_REPLACED
    if traced.tables is not None:
        yield from traced.tables.left_out()
    if verbose:
        failures = traced.tables.failures if traced.tables is not None else []
        yield from (f"no unwind tables for {one.path}: {one.reason}" for one in failures)
        yield from traced.symbolizer.notes()
