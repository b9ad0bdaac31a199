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

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO

from leaktrace import __version__
from leaktrace.model import Frame, Report, Site
from leaktrace.printable import printable
from leaktrace.report.export.remarks import remarks, title
from leaktrace.report.export.sites import STACK_NOT_KNOWN, frame_name, sites_of

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
            yield from _tree_lines(_tree(sites), snapshot.bytes)


@dataclass
class _Node:
    """A frame, and its callers."""

    bytes: int = 0
    callers: dict[str, _Node] = field(default_factory=dict)


def _tree(sites: Iterable[Site]) -> _Node:
    root = _Node()
    texts: dict[int, str] = {}  # by identity of frames, which stacks share
    for site in sites:
        if not site.bytes:
            continue
        node = root
        node.bytes += site.bytes
        for text in _path(site, texts):
            caller = node.callers.get(text)
            if caller is None:
                caller = node.callers[text] = _Node()
            node = caller
            node.bytes += site.bytes
    return root


def _path(site: Site, texts: dict[int, str]) -> Iterator[str]:
    if not site.stack.frames:
        yield f"0x0: {STACK_NOT_KNOWN}"
    for frame in site.stack.frames:
        text = texts.get(id(frame))
        if text is None:
            text = texts[id(frame)] = _escaped(_frame(frame))
        yield text


def _frame(frame: Frame) -> str:
    if frame.source is not None:
        place = f" ({printable(frame.source.file)}:{frame.source.line})"
    else:
        place = "" if frame.module is None else f" (in {printable(frame.module)})"
    return f"{frame.address:#x}: {frame_name(frame)}{place}"


def _tree_lines(root: _Node, total: int) -> Iterator[str]:
    """The lines of a tree, the largest callers first. Stacks can be deep: no recursion."""
    waiting: list[tuple[int, _Node | str, str]] = [(0, root, _ROOT)]
    while waiting:
        depth, node, text = waiting.pop()
        if isinstance(node, str):
            yield f"{' ' * depth}{node}"
            continue
        large: list[tuple[str, _Node]] = []
        small: list[tuple[str, _Node]] = []
        for name, caller in node.callers.items():
            is_large = caller.bytes * _THRESHOLD >= total
            (large if is_large else small).append((name, caller))
        yield f"{' ' * depth}n{len(large) + bool(small)}: {node.bytes} {text}"
        if small:  # first, because what is pushed first is popped last
            held, share = sum(one.bytes for _, one in small), 100 / _THRESHOLD
            places = "1 place" if len(small) == 1 else f"{len(small)} places, all"
            line = f"n0: {held} in {places} below massif's threshold ({share:.2f}%)"
            waiting.append((depth + 1, line, ""))
        large.sort(key=lambda one: one[1].bytes)
        waiting += [(depth + 1, caller, name) for name, caller in large]


def _escaped(text: str) -> str:
    return text.replace("#", "\\x23")
