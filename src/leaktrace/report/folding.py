"""Which frames of a stack are shown, so that a stack is read in one look.

    zmalloc_usable                 the leaf
    dictAddRaw                     the program's own frames, those nearest the leaf
    setKey
    setCommand
    ... 9 frames of redis-server and libc

The leaf and the first own frames are always shown. So is, if there is room, the function that the
program called (the last frame before its own). The others are folded into one line per run. Where
all frames are a runtime's, those of its functions that say what it did are shown in place of own
ones. A run of one frame is not folded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from leaktrace.report.runtimes import STANDARD_LIBRARY, Part, Place, place_of
from leaktrace.site import Frame

MOST_LINES = 6  # of a stack, as far as the frames that are always shown leave room
_OWN_ALWAYS = 3  # own frames that are shown, however many lines they take

_REPEATS_SHOWN = 3  # more repetitions than this in a row are counted instead
_LONGEST_CYCLE = 8  # frames of a recursion through several functions, or with inlined frames


@dataclass(frozen=True)
class Repeats:
    """The last `length` frames follow `times` more times."""

    length: int
    times: int


@dataclass(frozen=True)
class FoldedRun:
    """Frames that are not shown, and to what they belong, in their order."""

    count: int
    whose: tuple[str, ...]


Shown = Frame | Repeats | FoldedRun


def folded(frames: Sequence[Frame], most_lines: int | None = MOST_LINES) -> list[Shown]:
    """The frames that are shown of a stack, leaf first, with folded runs in place of the others.
    `most_lines` None: all own frames are."""
    items = list(unrepeated(frames))
    places = _places(items)
    kept = _kept(items, places, most_lines)
    shown: list[Shown] = []
    for run in _runs(items, kept):
        chosen = [items[index] for index in run]
        if run[0] in kept or (len(run) == 1 and isinstance(chosen[0], Frame)):
            shown += chosen
        else:
            whose = dict.fromkeys(places[index].whose for index in run)
            shown.append(FoldedRun(sum(map(_frame_count, chosen)), tuple(whose)))
    return shown


def summary(frames: Sequence[Frame]) -> list[Shown]:
    """The one frame that says most: the first own one, or what a runtime was asked to do."""
    items = list(unrepeated(frames))
    places = _places(items)
    own = [
        index
        for index, (item, place) in enumerate(zip(items, places, strict=True))
        if place.part is Part.OWN and isinstance(item, Frame) and item.function is not None
    ]
    return [items[own[0] if own else _called(places, own)]] if items else []


def unrepeated(frames: Sequence[Frame]) -> Iterator[Frame | Repeats]:
    """The frames, with a remark in place of those that only repeat others."""
    start = 0
    while start < len(frames):
        length, times = _cycle(frames, start)
        if times <= _REPEATS_SHOWN:
            yield frames[start]
            start += 1
            continue
        yield from frames[start : start + length]
        yield Repeats(length, times - 1)
        start += length * times


def _cycle(frames: Sequence[Frame], start: int) -> tuple[int, int]:
    """How many frames from `start` on repeat, and how often."""
    for length in range(1, _LONGEST_CYCLE + 1):
        end = start + length
        while end < len(frames) and frames[end] == frames[end - length]:
            end += 1
        times = (end - start) // length
        if times > _REPEATS_SHOWN:
            return length, times
    return 1, 1


def _places(items: Sequence[Frame | Repeats]) -> list[Place]:
    """Where each item belongs; repetitions belong where the frame before them does."""
    places: list[Place] = []
    for item in items:
        places.append(place_of(item) if isinstance(item, Frame) else places[-1])
    return places


def _kept(
    items: Sequence[Frame | Repeats], places: Sequence[Place], most_lines: int | None
) -> set[int]:
    """The indices of the items that are shown."""
    own = [
        index
        for index, (item, place) in enumerate(zip(items, places, strict=True))
        if place.part is Part.OWN and isinstance(item, Frame)
    ]
    always = len(own) if most_lines is None else _OWN_ALWAYS
    kept = _with_repeats(items, {0, *own[:always]} if items else set())
    called = _called(places, own)
    for wanted in ([called], own[always:], _telling(places, own, called)):
        for index in wanted:
            more = _with_repeats(items, kept | {index})
            if _line_count(items, more) > (most_lines or MOST_LINES):
                break
            kept = more
    return kept


def _with_repeats(items: Sequence[Frame | Repeats], kept: set[int]) -> set[int]:
    """The indices with those of the remarks about these frames."""
    return kept | {
        index
        for index, item in enumerate(items)
        if isinstance(item, Repeats) and kept.issuperset(range(index - item.length, index))
    }


def _called(places: Sequence[Place], own: Sequence[int]) -> int:
    """The index of the function that the program called; 0, the leaf, if there is none."""
    if own:
        before = own[0] - 1
        return before if before > 0 and places[before].says_something else 0
    # A program that is interpreted: what the interpreter's loop called.
    called = 0
    for index, place in enumerate(places):
        if place.says_something:
            called = index
        elif called:
            break
    return called


def _telling(places: Sequence[Place], own: Sequence[int], called: int) -> list[int]:
    """Frames that are not own and say what was done, those nearest the leaf first. (Not those of
    the C++ library: there are many, and each says less than what the program called.)"""
    end = own[0] if own else called
    return [
        index
        for index, place in enumerate(places[:end])
        if place.says_something and place.whose != STANDARD_LIBRARY
    ]


def _runs(items: Sequence[object], kept: set[int]) -> Iterator[list[int]]:
    """The indices of all items, in runs of shown ones and of others."""
    run: list[int] = []
    for index in range(len(items)):
        if run and (index in kept) is not (run[-1] in kept):
            yield run
            run = []
        run.append(index)
    if run:
        yield run


def _line_count(items: Sequence[object], kept: set[int]) -> int:
    return sum(len(run) if run[0] in kept else 1 for run in _runs(items, kept))


def _frame_count(item: Frame | Repeats) -> int:
    return 1 if isinstance(item, Frame) else item.length * item.times
