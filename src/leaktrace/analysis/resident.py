"""Resident memory next to outstanding memory: what it means if the two differ much.

Outstanding memory is what the program requested and hasn't freed. Resident memory is the part of
its address space that is in RAM. One grows without the other if memory isn't allocated by hooked
functions, if an allocator keeps what was freed, or if allocated memory isn't touched.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from leaktrace.memory import Explained, MemoryGrowth, MemoryKinds
from leaktrace.model import Remark, RemarkKind
from leaktrace.site import Total
from leaktrace.units import size

# Less than this is noise: stacks, buffers of the C library, an allocator's first pages.
MUCH_BYTES = 16 << 20
# The most that an allocator needs for the allocated bytes: size classes, headers, alignment.
_ROOM_SHARE = 1.5
_ROOM_BYTES = 128
_ERRORS = 3  # an estimate may be wrong by this many standard errors
_SMALL_SHARE = 10  # a kind of memory with less than a tenth of the largest growth isn't named


@dataclass(frozen=True)
class Account:
    """The figures of a report that are compared with resident memory."""

    outstanding: Total
    allocated: Total  # since tracing began, whether or not it was freed
    most: Total  # the most outstanding memory of any report
    error_bytes: int = 0  # standard error of what is outstanding
    is_whole: bool = True  # no or few allocations were lost
    untouched_bytes: int = 0  # of mapped regions: seen not to be in memory


def judge(
    memory: MemoryGrowth, of_programs: Callable[[], MemoryKinds], account: Account, pid: int
) -> Remark | None:
    """What a report should say about the difference; None if it is small.

    `of_programs` returns what the program and its libraries account for at most: code and data that
    are touched as the program runs, without being allocated.
    """
    grown = _gained(memory.since_attach)
    tracked = _room(account.outstanding) + _ERRORS * account.error_bytes
    if account.is_whole and _is_much_more(grown.total, tracked):
        programs, grew = of_programs(), memory.since_attach
        new = _gained(
            MemoryKinds(grew.anonymous - programs.anonymous, grew.file - programs.file, grew.shared)
        )
        return (
            _more_is_resident(memory, new, account, pid)
            if _is_much_more(new.total, tracked)
            else None
        )
    # What a report says about regions anyway needs no other explanation.
    held = account.outstanding.bytes - account.untouched_bytes - _ERRORS * account.error_bytes
    if _is_much_more(held, grown.total + max(memory.besides_since_attach, 0)):
        return _less_is_resident(memory, account)
    return None


def explain(
    memory: MemoryGrowth,
    outstanding_bytes: int,
    held_bytes: int,
    other_bytes: int,
    break_bytes: int,
) -> Explained:
    """What the tracked memory explains of the change of resident memory. `held_bytes`: what of the
    outstanding bytes takes memory; `other_bytes`: the same of other sections; `break_bytes`: the
    part of those that is private (the program break).

    Only anonymous memory can be kept by an allocator, and blocks are taken as resident. So the part
    that the allocator keeps is at most the anonymous memory beyond the tracked one. (Mapped files
    among the tracked memory are no anonymous memory: with them it can be more, but never more than
    what is unexplained.)
    """
    grew = memory.since_attach
    unexplained = grew.total - held_bytes - other_bytes
    beyond = grew.anonymous - held_bytes - break_bytes
    return Explained(
        resident_growth=grew.total,
        outstanding=outstanding_bytes,
        outstanding_held=held_bytes,
        other_memory=other_bytes,
        unexplained=unexplained,
        allocator_at_most=max(min(beyond, unexplained), 0),
        since_attach=grew,
        not_resident=memory.besides_since_attach,
        new_threads=memory.new_threads,
        huge_pages=memory.huge_pages,
        is_all=memory.is_all,
    )


def _gained(change: MemoryKinds) -> MemoryKinds:
    return MemoryKinds(max(change.anonymous, 0), max(change.file, 0), max(change.shared, 0))


def _room(total: Total) -> int:
    return int(total.bytes * _ROOM_SHARE) + total.count * _ROOM_BYTES


def _is_much_more(one: int, other: int) -> bool:
    return one - other >= MUCH_BYTES and one >= 2 * other


def _more_is_resident(memory: MemoryGrowth, new: MemoryKinds, account: Account, pid: int) -> Remark:
    grew, kinds = _grew(memory), _kinds(memory.since_attach)
    held = size(account.outstanding.bytes)
    # --faults leaves out faults in mapped files.
    hint = "try --faults, which shows where memory is touched first"
    if new.file > new.total // 2:
        hint = f"mapped files belong to the page cache: pmap -x {pid} shows them"
    if _is_much_more(new.total, _room(account.allocated)):
        return Remark(
            RemarkKind.UNTRACKED_MEMORY,
            f"{grew} ({kinds}), but the hooked functions allocated only "
            f"{size(account.allocated.bytes)}: most of the growth comes from elsewhere",
            hint,
        )
    fell_bytes = account.most.bytes - account.outstanding.bytes
    explains = not _is_much_more(new.total, _room(account.most))
    if fell_bytes >= MUCH_BYTES and new.anonymous > new.total // 2 and explains:
        return Remark(
            RemarkKind.KEPT,
            f"{grew}, but only {held} is outstanding, down from {size(account.most.bytes)} in an "
            "earlier report: the rest was freed, and the allocator keeps it",
        )
    return Remark(
        RemarkKind.KEPT_OR_UNTRACKED,
        f"{grew} ({kinds}), but only {held} is outstanding: either the rest was freed and the "
        "allocator keeps it, or it was not allocated by the hooked functions",
        hint,
    )


def _less_is_resident(memory: MemoryGrowth, account: Account) -> Remark:
    reason = "was never touched, or was returned to the system"
    if not memory.is_all:
        reason += ", or replaced memory that was resident before"
    held = size(account.outstanding.bytes)
    return Remark(
        RemarkKind.NOT_RESIDENT, f"{_grew(memory)}, but {held} is outstanding: the rest {reason}"
    )


def _grew(memory: MemoryGrowth) -> str:
    change = memory.since_attach.total
    since = "since it started" if memory.is_all else "since leaktrace attached"
    return f"RSS {'grew' if change >= 0 else 'fell'} by {size(abs(change))} {since}"


def _kinds(grown: MemoryKinds) -> str:
    """The kinds that matter, largest first."""
    kinds = (
        (grown.anonymous, "anonymous memory"),
        (grown.file, "mapped files"),
        (grown.shared, "shared memory"),
    )
    most = max(change for change, _ in kinds)
    named = sorted((one for one in kinds if one[0] * _SMALL_SHARE >= most), reverse=True)
    if len(named) == 1:
        return named[0][1]
    return ", ".join(f"{name} {size(change)}" for change, name in named)
