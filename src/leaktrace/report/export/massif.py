"""--format massif: memory over time, as valgrind's massif writes it.

    desc: leaktrace 0.1.0
    cmd: httpd (pid 4242), 15.0s after tracing began
    time_unit: ms
    snapshot=0
    time=5000
    mem_heap_B=4096
    mem_heap_extra_B=0
    mem_stacks_B=0
    heap_tree=peak
    n1: 4096 (heap allocation functions) malloc/new/new[], --alloc-fns, etc.
     n0: 4096 0x401136: read_request (server.c:77)

There is a snapshot per report: the bytes in use of all its sites. Some have a tree of the sites,
from the code that allocates to its callers: the one with the most memory ("peak"), the last one,
and some between, so that neither memory nor the file grows much with the time of a trace. ms_print
takes what follows a "#" for a comment, so it is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from leaktrace import __version__
from leaktrace.analysis.views.parts import sites_of
from leaktrace.model import Report
from leaktrace.printable import printable
from leaktrace.report.export.remarks import remarks, title
from leaktrace.report.export.sites import STACK_NOT_KNOWN, frame_name
from leaktrace.site import Frame, Site

if TYPE_CHECKING:
    from leaktrace.report.export import ExportOptions

_MOST_BETWEEN = 8  # reports whose sites are kept, besides the peak and the last
_ROOT = "(heap allocation functions) malloc/new/new[], --alloc-fns, etc."
_THRESHOLD = 1000  # smaller nodes than this part of a snapshot are added up, as massif does


def create(_options: ExportOptions) -> MassifExport:
    return MassifExport()


@dataclass
class _Snapshot:
    time_ms: int
    bytes: int


class MassifExport:
    """All reports, by bytes in use."""

    def __init__(self) -> None:
        self._snapshots: list[_Snapshot] = []
        self._between: dict[int, tuple[Site, ...]] = {}  # by number of the snapshot
        self._every = 1  # of so many snapshots, the sites of one are kept
        self._peak: tuple[int, tuple[Site, ...]] = (0, ())
        self._last: Report | None = None

    def add(self, report: Report) -> None:
        sites = sites_of(report)
        number, held = len(self._snapshots), sum(site.bytes for site in sites)
        if not self._snapshots or held > self._snapshots[self._peak[0]].bytes:
            self._peak = (number, sites)
        self._snapshots.append(_Snapshot(round(report.elapsed_s * 1000), held))
        self._last = report
        if number % self._every == 0:
            self._between[number] = sites
            if len(self._between) > _MOST_BETWEEN:
                self._every *= 2
                kept = self._between.items()
                self._between = {at: one for at, one in kept if at % self._every == 0}

    def write(self, output: BinaryIO) -> None:
        output.write("".join(f"{line}\n" for line in self._lines()).encode())

    def _lines(self) -> Iterator[str]:
        about = [f"leaktrace {__version__}", *(() if self._last is None else remarks(self._last))]
        yield f"desc: {_escaped('; '.join(about))}"
        yield f"cmd: {'' if self._last is None else _escaped(title(self._last))}"
        yield "time_unit: ms"
        detailed = dict(self._between)
        if self._last is not None:
            detailed[len(self._snapshots) - 1] = sites_of(self._last)
            detailed[self._peak[0]] = self._peak[1]
        for number, snapshot in enumerate(self._snapshots):
            yield "#-----------"
            yield f"snapshot={number}"
            yield "#-----------"
            yield f"time={snapshot.time_ms}"
            yield f"mem_heap_B={snapshot.bytes}"
            yield "mem_heap_extra_B=0"
            yield "mem_stacks_B=0"
            sites = detailed.get(number)
            if sites is None:
                yield "heap_tree=empty"
                continue
            yield "heap_tree=peak" if number == self._peak[0] else "heap_tree=detailed"
            yield from _tree_lines(sites, snapshot.bytes)


_Held = tuple[Sequence[str], int]  # the frames of a site, leaf first, and its bytes


def _tree_lines(sites: Iterable[Site], total: int) -> Iterator[str]:
    """The lines of a tree, the largest callers first. Only what is shown is divided further, and
    stacks can be deep, so there is no tree of objects and no recursion."""
    texts: dict[int, str] = {}  # by identity of frames, which stacks share
    everything = [(_path(site, texts), site.bytes) for site in sites if site.bytes]
    waiting: list[tuple[int, str, int, list[_Held]]] = [(0, _ROOT, total, everything)]
    while waiting:
        depth, text, held, parts = waiting.pop()
        large, small = _callers(parts, depth, total)
        yield f"{' ' * depth}n{len(large) + bool(small)}: {held} {text}"
        if small:  # pushed first, so it comes last
            places = "1 place" if len(small) == 1 else f"{len(small)} places, all"
            rest = f"in {places} below massif's threshold ({100 / _THRESHOLD:.2f}%)"
            waiting.append((depth + 1, rest, sum(small), []))
        large.sort(key=lambda one: one[1])
        waiting += [(depth + 1, *one) for one in large]


def _callers(
    parts: Iterable[_Held], depth: int, total: int
) -> tuple[list[tuple[str, int, list[_Held]]], list[int]]:
    """The frames at a depth with what they hold: large ones, and the bytes of small ones."""
    callers: dict[str, list[_Held]] = {}
    for path, held in parts:
        if depth < len(path):
            callers.setdefault(path[depth], []).append((path, held))
    large, small = [], []
    for text, group in callers.items():
        held = sum(one for _, one in group)
        if held * _THRESHOLD >= total:
            large.append((text, held, group))
        else:
            small.append(held)
    return large, small


def _path(site: Site, texts: dict[int, str]) -> Sequence[str]:
    if not site.stack.frames:
        return (f"0x0: {STACK_NOT_KNOWN}",)
    path = []
    for frame in site.stack.frames:
        text = texts.get(id(frame))
        if text is None:
            text = texts[id(frame)] = _escaped(_frame(frame))
        path.append(text)
    return path


def _frame(frame: Frame) -> str:
    if frame.source is not None:
        place = f" ({printable(frame.source.file)}:{frame.source.line})"
    else:
        place = "" if frame.module is None else f" (in {printable(frame.module)})"
    return f"{frame.address:#x}: {frame_name(frame)}{place}"


def _escaped(text: str) -> str:
    return text.replace("#", "\\x23")
