"""Which code was at which address, and when: the same address can mean one library now and another
library later.

A view contains everything that was mapped while no address changed its meaning. When an address
does change it, another view begins. A library that comes back to its earlier address is found in
the view of that time, so a program may load and unload the same libraries without end.

Each stack says which view it belongs to (struct stack in bpf/process/types.h): the view of the list
of mappings that was in force, plus what the dynamic loader had loaded since. Each change that the
loader makes begins an epoch.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from leaktrace.site import Frame
from leaktrace.symbols.module import Module
from leaktrace.targets.mappings import Mapping

_MAX_VIEWS = 1000
_MAX_LOADS = 1_000_000


@dataclass(frozen=True)
class Region:
    """Executable memory and the object behind it, or why there is none."""

    mapping: Mapping
    module: Module | None
    problem: str = ""

    @property
    def is_unopened(self) -> bool:
        """Whether there is a file, but it could not be opened."""
        return self.module is None and self.mapping.is_file

    @property
    def content(self) -> object:
        """Equal for two regions if, as far as is known, their overlapping part is the same code."""
        one, bias = self.mapping, self.mapping.start - self.mapping.offset
        if self.module is not None:  # not by the inode: the file may be overwritten in place
            return (*self.module.identity, bias)
        return (one.device, one.inode, bias) if one.is_file else one.path

    def locate(self, address: int) -> object:
        """A key for an address that stays the same wherever the object is loaded."""
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
        """The mappings of its regions."""
        return tuple(region.mapping for region in self.regions)

    def region_at(self, address: int) -> Region | None:
        last = bisect_right(self._starts, address) - 1
        if last >= 0 and address < self.regions[last].mapping.end:
            return self.regions[last]
        return None

    def locate(self, address: int) -> object:
        """A key for a return address that stays the same wherever its object is loaded."""
        region = self.region_at(address - 1)
        return address if region is None else region.locate(address - 1)

    def is_in_object(self, address: int) -> bool:
        """Whether a return address leads into an object that could be opened."""
        region = self.region_at(address - 1)
        return region is not None and region.module is not None

    def agrees_with(self, regions: Iterable[Region]) -> bool:
        """Whether every address means the same here and in these regions, if both have it."""
        return all(
            one.content == region.content
            for region in regions
            for one in self._overlapping(region.mapping)
        )

    def add(self, regions: Sequence[Region]) -> None:
        """Add regions. They replace those that they overlap."""
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
        """Drop all regions but these."""
        self._set(regions)

    def forget(self) -> None:
        """Drop everything: there are too many views."""
        self._set(())
        self.frames = {}
        self.is_forgotten = True

    def _overlapping(self, mapping: Mapping) -> list[Region]:
        first = max(bisect_right(self._starts, mapping.start) - 1, 0)
        end = bisect_left(self._starts, mapping.end)
        return [one for one in self.regions[first:end] if one.mapping.end > mapping.start]


class Gaps:
    """The epochs of which events were lost: what was loaded in them may be unknown.

    A lost event matters only until the next look at the mappings: a list that was made after it
    contains what the event would have said. So a stack is affected only if it needs events of a
    gap, those between the epoch of its list and its own.
    """

    def __init__(self) -> None:
        self._lost_count = 0
        self._counted_up_to = 0  # losses of this epoch, and of those before, were counted
        self._ranges: list[tuple[int, int]] = []  # ascending, disjoint: after .. up to

    def update(self, sent_up_to: int, lost_count: int, epoch: int) -> None:
        """Compare the count of lost events with the last one.

        The three must be read in this order: `sent_epoch` of abi.SESSION, the count, `epoch` of
        abi.SESSION. When `sent_epoch` is read, all events of the epochs up to it have been sent, or
        counted as lost. So the event of a load that is counted later belongs to a later epoch, but
        to none after `epoch`, which each change increments before it sends anything
        (bpf/process/objects.bpf.c). Changes don't overlap: the dynamic loader holds a lock.
        """
        after = self._counted_up_to
        if lost_count > self._lost_count and after < epoch:
            if self._ranges and after <= self._ranges[-1][1]:
                after = self._ranges.pop()[0]
            self._ranges.append((after, epoch))
        self._lost_count, self._counted_up_to = lost_count, sent_up_to

    def affect(self, since: int, epoch: int) -> bool:
        """Whether events of the epochs after `since`, up to `epoch`, may be missing."""
        first = bisect_right(self._ranges, since, key=lambda one: one[1])
        return first < len(self._ranges) and self._ranges[first][0] < epoch


class CodeViews:
    """All views of one executable image, and what was loaded when."""

    def __init__(self, gaps: Gaps | None = None) -> None:
        """`gaps` are the same for all images of a run: epochs are counted on across an exec."""
        self.now = CodeView(0)
        self._views = [self.now]
        self._epochs: list[int] = []  # in which something was loaded
        self._loaded: list[tuple[Region, ...]] = []  # what was loaded in each of them
        self._forgotten_epoch = 0
        self.gaps = gaps or Gaps()
        self.unknown = CodeView(-1)  # for stacks whose code can't be determined
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
        """Drop all frames: they were made when fewer names were known."""
        for view in self._views:
            view.frames.clear()
        if self._agreed is not None:
            self._agreed[1].frames.clear()

    def see(self, mapped: Sequence[Region]) -> None:
        """The process has this code now. `now` becomes a view that agrees with it."""
        self.now = self._view_with(mapped, self.now)

    def see_loaded(self, epoch: int, regions: tuple[Region, ...]) -> None:
        """In this epoch, the dynamic loader loaded these regions."""
        at = bisect_right(self._epochs, epoch)
        self._epochs.insert(at, epoch)
        self._loaded.insert(at, regions)
        self._late.clear()
        if len(self._epochs) > _MAX_LOADS:
            cut = _MAX_LOADS // 2
            self._forgotten_epoch = self._epochs[cut - 1]
            del self._epochs[:cut], self._loaded[:cut]

    def at(self, number: int, since: int, epoch: int) -> CodeView:
        """The view of a stack: view `number`, which is that of the list of mappings in force, plus
        what was loaded after that list's epoch `since` up to `epoch`. An epoch of 0 means that no
        list was in force yet."""
        if not epoch:
            return self._always()
        if epoch <= since:
            return self._views[number] if number < len(self._views) else self.unknown
        if self.gaps.affect(since, epoch):
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
        first, end = (bisect_right(self._epochs, one) for one in (since, epoch))
        for regions in self._loaded[first:end]:
            view = self._view_with(regions, view)
        return view

    def _always(self) -> CodeView:
        """The regions that all views agree on: for stacks of an unknown time."""
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
        changed = CodeView(len(self._views), base.regions)
        changed.add(regions)
        for view in self._views:
            if not view.is_forgotten and view.agrees_with(changed.regions):
                view.add(changed.regions)
                return view
        if len(self._views) >= _MAX_VIEWS:
            self._views[len(self._views) - _MAX_VIEWS].forget()
        self._views.append(changed)
        return changed
