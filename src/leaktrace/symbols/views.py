"""Which code was where, and when: the same address can mean one library now and another later.

A view holds what was ever mapped while no address changed its meaning. Where one does, another view
begins; a library that comes back to where it was is met in the view of then, so that a program may
load and unload the same ones for ever. Stacks say which view they belong to (struct stack of
bpf/process/types.h): that of the list of mappings that was in force, and what the dynamic loader
had loaded since. An epoch begins with each change that the loader makes.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from leaktrace.model import Frame
from leaktrace.symbols.module import Module
from leaktrace.targets.mappings import Mapping

_MOST_VIEWS = 1000
_MOST_LOADS = 1_000_000


@dataclass(frozen=True)
class Region:
    """Executable memory and the object behind it, or why there is none."""

    mapping: Mapping
    module: Module | None
    problem: str = ""

    @property
    def is_unopened(self) -> bool:
        """Whether there is a file that nobody could look into."""
        return self.module is None and self.mapping.is_file

    @property
    def content(self) -> object:
        """Equal for regions whose overlapping part is the same code, as far as one can tell."""
        one, bias = self.mapping, self.mapping.start - self.mapping.offset
        if self.module is not None:  # not by the file's number: it may be written over
            return (*self.module.identity, bias)
        return (one.device, one.inode, bias) if one.is_file else one.path

    def locate(self, address: int) -> object:
        """What is the same for this place in the object, wherever that is loaded."""
        if self.module is None:
            return (self.content, address)
        elf = self.module.elf
        vaddr = elf.offset_to_vaddr(address - self.mapping.start + self.mapping.offset)
        return (self.module.identity, address if vaddr is None else vaddr)


class CodeView:
    """Disjoint regions by ascending address, and the frames found in them so far."""

    def __init__(self, number: int, regions: Iterable[Region] = ()) -> None:
        self.number = number
        self.frames: dict[tuple[int, bool], tuple[Frame, ...]] = {}
        self.is_forgotten = False
        self._set(regions)

    def _set(self, regions: Iterable[Region]) -> None:
        self.regions = sorted(regions, key=lambda region: region.mapping.start)
        self._starts = [region.mapping.start for region in self.regions]

    @property
    def mappings(self) -> tuple[Mapping, ...]:
        """What lies, or lay, where."""
        return tuple(region.mapping for region in self.regions)

    def region_at(self, address: int) -> Region | None:
        last = bisect_right(self._starts, address) - 1
        if last >= 0 and address < self.regions[last].mapping.end:
            return self.regions[last]
        return None

    def locate(self, address: int) -> object:
        """What a return address leads to, the same wherever its object is loaded."""
        region = self.region_at(address - 1)
        return address if region is None else region.locate(address - 1)

    def agrees_with(self, regions: Iterable[Region]) -> bool:
        """Whether no address means anything else here."""
        return all(
            one.content == region.content
            for region in regions
            for one in self._overlapping(region.mapping)
        )

    def add(self, regions: Sequence[Region]) -> None:
        """Take in what agrees, or take the place of what doesn't."""
        new = [region for region in regions if region not in self._overlapping(region.mapping)]
        if not new:
            return
        starts = sorted(region.mapping.start for region in new)
        ends = [one.mapping.end for one in sorted(new, key=lambda one: one.mapping.start)]

        def is_covered(start: int, end: int) -> bool:
            last = bisect_left(starts, end) - 1
            return last >= 0 and ends[last] > start

        kept = [one for one in self.regions if not is_covered(one.mapping.start, one.mapping.end)]
        self._set((*kept, *new))
        self.frames = {
            (address, is_return): frames
            for (address, is_return), frames in self.frames.items()
            if not is_covered(address - is_return, address - is_return + 1)
        }

    def keep(self, regions: Iterable[Region]) -> None:
        """Let go of all regions but these."""
        self._set(regions)

    def forget(self) -> None:
        """There are too many views: of this one nothing is known any more."""
        self._set(())
        self.frames = {}
        self.is_forgotten = True

    def _overlapping(self, mapping: Mapping) -> list[Region]:
        first = max(bisect_right(self._starts, mapping.start) - 1, 0)
        behind = bisect_left(self._starts, mapping.end)
        return [one for one in self.regions[first:behind] if one.mapping.end > mapping.start]


class CodeViews:
    """All views of one executable image, and what was loaded when."""

    def __init__(self) -> None:
        self.now = CodeView(0)
        self._views = [self.now]
        self._epochs: list[int] = []  # in which something was loaded
        self._loaded: list[tuple[Region, ...]] = []  # what that was
        self._forgotten_epoch = 0
        self.has_gaps = False  # not everything that was loaded has been told
        self.unknown = CodeView(-1)  # of stacks of which nobody can tell
        self.unknown.forget()
        self._agreed: tuple[int, CodeView] | None = None
        self._late: dict[tuple[int, int, int], CodeView] = {}

    def __len__(self) -> int:
        return len(self._views)

    @property
    def has_changed(self) -> bool:
        """Whether stacks may differ in more than their addresses."""
        return len(self._views) > 1 or bool(self._epochs)

    def __iter__(self) -> Iterator[CodeView]:
        return iter(self._views)

    def forget_frames(self) -> None:
        """More names are known than these were made with."""
        for view in self._views:
            view.frames.clear()
        if self._agreed is not None:
            self._agreed[1].frames.clear()

    def see(self, mapped: Sequence[Region]) -> None:
        """The process has this code now. `now` becomes a view that agrees with it."""
        self.now = self._view_with(mapped, self.now)

    def see_loaded(self, epoch: int, regions: tuple[Region, ...]) -> None:
        """In this epoch, the dynamic loader has put these regions in their places."""
        at = bisect_right(self._epochs, epoch)
        self._epochs.insert(at, epoch)
        self._loaded.insert(at, regions)
        self._late.clear()
        if len(self._epochs) > _MOST_LOADS:
            cut = _MOST_LOADS // 2
            self._forgotten_epoch = self._epochs[cut - 1]
            del self._epochs[:cut], self._loaded[:cut]

    def at(self, number: int, since: int, epoch: int) -> CodeView:
        """The view of a stack: that of the list of mappings that was in force, with what was loaded
        after that list's epoch `since` up to `epoch`; 0: there was no list in force yet."""
        if not epoch:
            return self._always()
        if epoch <= since:
            return self._views[number] if number < len(self._views) else self.unknown
        if self.has_gaps:
            return self.unknown
        key = (number, since, epoch)
        if key not in self._late:
            self._late[key] = self._late_view(number, since, epoch)
        return self._late[key]

    def _late_view(self, number: int, since: int, epoch: int) -> CodeView:
        if since < self._forgotten_epoch or number >= len(self._views):
            return self.unknown
        view = self._views[number]
        if view.is_forgotten:
            return view
        first, behind = (bisect_right(self._epochs, one) for one in (since, epoch))
        for regions in self._loaded[first:behind]:
            view = self._view_with(regions, view)
        return view

    def _always(self) -> CodeView:
        """What no view contradicts: for stacks of an unknown moment."""
        if len(self._views) == 1:
            return self.now
        if self._agreed is None or self._agreed[0] != len(self._views):
            regions = [
                region
                for region in self.now.regions
                if all(view.agrees_with([region]) for view in self._views)
            ]
            self._agreed = (len(self._views), CodeView(-1, regions))
        return self._agreed[1]

    def _view_with(self, regions: Sequence[Region], base: CodeView) -> CodeView:
        """The view that is `base` with these regions in it."""
        if base.agrees_with(regions):
            base.add(regions)
            return base
        wanted = CodeView(len(self._views), base.regions)
        wanted.add(regions)
        for view in self._views:
            if not view.is_forgotten and view.agrees_with(wanted.regions):
                view.add(wanted.regions)
                return view
        if len(self._views) >= _MOST_VIEWS:
            self._views[len(self._views) - _MOST_VIEWS].forget()
        self._views.append(wanted)
        return wanted
