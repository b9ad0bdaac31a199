"""From the addresses of a running process to frames."""

from __future__ import annotations

import os
import time
import weakref
from bisect import bisect_right
from collections.abc import Callable, Iterable

from leaktrace.elf.object import ElfObject
from leaktrace.errors import LeaktraceError, ObjectFileError, TargetError
from leaktrace.options import SymbolOptions
from leaktrace.own.shortages import shortage
from leaktrace.printable import printable
from leaktrace.site import Frame
from leaktrace.symbols.debug_information import LookupContext
from leaktrace.symbols.demangle import demangle
from leaktrace.symbols.jit import PerfMap
from leaktrace.symbols.lookups import Lookups
from leaktrace.symbols.module import SIGNAL_FRAME
from leaktrace.symbols.objects import MappedObjects
from leaktrace.symbols.views import CodeView, CodeViews, Region
from leaktrace.targets.loader import LoadedObject
from leaktrace.targets.mappings import Mapping, read_mappings
from leaktrace.targets.moved_text import MovedText

_MAX_REGIONS = 65_536  # kept, including those that were unmapped
_MAX_LOADED = 4096  # places of objects that the loader loads and unloads
_MAX_WHOLE = 65_536  # of which path and fingerprint are kept
_PAUSE_FACTOR = 19  # how many times as long as an unsuccessful refresh the next one is delayed


class ProcessSymbolizer:
    """Names for the code addresses of one process.

    Objects are opened when their mapping is first seen and stay open (objects.py).
    """

    def __init__(
        self, pid: int, options: SymbolOptions | None = None, lookups: Lookups | None = None
    ) -> None:
        """Opens the process and reads its mappings. Raises TargetError when it has ended.

        `lookups` read debug information in the background: frames have more names and lines once
        it has arrived. Without them, the first lookup in an object reads it, and takes that long.
        """
        self.pid = pid
        self._context = LookupContext.of(options or SymbolOptions(), lookups)
        self._arrived = 0  # `Lookups.arrived` when the frames were made
        try:
            # Files in this directory can't be opened once the process has ended, so a process that
            # reuses the pid is never taken for the target.
            self._directory = os.open(f"/proc/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise shortage(error) or TargetError(
                f"process {pid} has ended", "check the process id; it may have ended just now"
            ) from error
        weakref.finalize(self, os.close, self._directory)
        self._objects = MappedObjects(pid, self._context)
        self.views = CodeViews()
        self._loaded: dict[Mapping, Region] = {}
        self._by_place: dict[tuple[int, int], tuple[Region, ...]] = {}
        self._whole: dict[tuple[int, int], LoadedObject] = {}
        self._perf_map: PerfMap | None = None
        self._mappings: tuple[Mapping, ...] = ()
        self._moved_text = MovedText(pid, self._objects.files)
        self._next_refresh_s = 0.0
        self._has_ended = False
        self._is_new_image = True
        self.refresh()

    def refresh(self, mappings: tuple[Mapping, ...] | None = None) -> bool:
        """Open the objects of new mappings. The mappings are read, unless the caller has just done
        so. Returns whether executable memory has changed.

        Raises TargetError when the process has ended; what is known so far stays usable.
        """
        self.refresh_generated_names()
        if mappings is None:
            mappings = read_mappings(self.pid)
        mappings = self._moved_text.recognise(mappings)
        if not self.is_alive():
            raise TargetError(f"process {self.pid} has ended", "its symbols known so far are used")
        if self._is_new_image:
            self._perf_map = self._objects.open_root()
            self._is_new_image = False
        self._mappings = mappings
        # A file that could not be opened is tried again.
        now = {one.mapping: one for one in self.views.now.regions if not one.is_unopened}
        known = now | self._loaded
        executable = [mapping for mapping in mappings if mapping.is_executable]
        new = [mapping for mapping in executable if mapping not in known]
        if not new and all(now.get(mapping) == known[mapping] for mapping in executable):
            return False
        self._make_room(len(new))
        regions = [known.get(one) or self._objects.region(one) for one in executable]
        self.views.see(regions)
        return True

    def see_loaded(self, loaded: LoadedObject, mapped: Callable[[], tuple[Mapping, ...]]) -> bool:
        """Add an object that the dynamic loader has loaded, and that may be unloaded already.
        `mapped` returns the present mappings. Returns whether the object is new in this place."""
        known = self._by_place.get(loaded.place)
        is_new = known is None or any(region.is_unopened for region in known)
        if known is None or is_new:
            if len(self._by_place) >= _MAX_LOADED:
                self._by_place.clear()
                self._loaded.clear()
            if len(self._whole) >= _MAX_WHOLE:
                self._whole.clear()
            # When an object comes back, only its place is sent.
            whole = loaded if loaded.is_whole else self._whole.get(loaded.place, loaded)
            self._whole[loaded.place] = whole
            known = self._by_place[loaded.place] = self._objects.regions_of_loaded(whole, mapped())
        self._loaded |= {region.mapping: region for region in known if region.module}
        self.views.see_loaded(loaded.epoch, known)
        return is_new

    def object_behind(self, mapping: Mapping) -> ElfObject | None:
        """The open object behind a mapping of the present view, even if it is unmapped already."""
        region = self.views.now.region_at(mapping.start)
        if region is None or region.mapping != mapping:
            region = self._loaded.get(mapping)
        return region.module.elf if region is not None and region.module is not None else None

    @property
    def mappings(self) -> tuple[Mapping, ...]:
        """Those that the process had when they were last read."""
        return self._mappings

    def loaded(self) -> tuple[Mapping, ...]:
        """The mappings of the objects that `see_loaded` has added."""
        return tuple(self._loaded)

    def look_ahead(self) -> None:
        """Begin to look up the names and lines of the program itself, which most stacks contain.
        The only report of a short run has them then, even if they take long to read."""
        try:
            path = os.readlink("exe", dir_fd=self._directory)
        except OSError:
            return
        regions = (region for region in self.views.now.regions if region.mapping.path == path)
        module = next((region.module for region in regions if region.module), None)
        if module is not None:
            module.look_ahead()

    def refresh_generated_names(self) -> None:
        """Make the next lookups see all names that the process has given to generated code so far,
        even if it has ended since."""
        if self._perf_map:
            self._perf_map.refresh()

    def symbolize(
        self, address: int, is_return_address: bool = True, view: CodeView | None = None
    ) -> tuple[Frame, ...]:
        """The frames at an address: inlined ones first, innermost first, the physical one last.

        For a return address, the function is that of the call before it. `view` is the code as it
        was at some time; by default, as it is now. Never raises and never returns an empty tuple: a
        frame without a name has the reason in `unknown`.
        """
        view = view or self.views.now
        key, lookups = (address, is_return_address), self._context.lookups
        frames: tuple[Frame, ...] | None = None
        while frames is None or self._arrived != lookups.arrived:
            if self._arrived != lookups.arrived:  # more names have arrived: the frames lack them
                self._arrived = lookups.arrived
                self.views.forget_frames()
            frames = view.frames.get(key) or self._symbolize(address, is_return_address, view)
        if frames[-1].unknown is None or frames[-1].module_offset is not None:
            view.frames[key] = frames
        return frames

    def symbolize_stack(
        self, addresses: Iterable[int], view: CodeView | None = None
    ) -> tuple[Frame, ...]:
        """The frames of a stack of return addresses, leaf first; `view` as for `symbolize`.

        A signal interrupts a function before an instruction, not after a call: the address after a
        signal frame is looked up as it is.
        """
        frames: list[Frame] = []
        is_return_address = True
        for address in addresses:
            frames += self.symbolize(address, is_return_address, view)
            is_return_address = frames[-1].function != SIGNAL_FRAME
        return tuple(frames)

    def forget(self) -> None:
        """Drop everything that execve(2) replaces: mappings and addresses. Objects stay open."""
        self.views = CodeViews(self.views.gaps)
        self._loaded, self._by_place, self._whole = {}, {}, {}
        self._is_new_image = True

    def is_alive(self) -> bool:
        """Whether the process still has an address space. Another process of the same pid doesn't
        count."""
        try:
            descriptor = os.open("stat", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._directory)
        except OSError:
            return False
        os.close(descriptor)
        return True

    def notes(self) -> tuple[str, ...]:
        """Why lines are missing, for each object in which an address was looked up."""
        files = [one for one in self._objects.modules() if not one.path.startswith("[")]
        return tuple(f"{module.shown}: {module.problem}" for module in files if module.problem)

    # -- looking up -------------------------------------------------------------------------

    def _symbolize(
        self, address: int, is_return_address: bool, view: CodeView
    ) -> tuple[Frame, ...]:
        lookup_address = address - 1 if is_return_address else address
        region = view.region_at(lookup_address)
        if region is None and view is self.views.now:
            region = self._region_after_refresh(lookup_address)
        if region is None and view is not self.views.now:
            doubt = "which library was here is unknown: too many were loaded and unloaded"
            return (
                Frame(address, unknown=doubt if view.is_forgotten else "not mapped at that time"),
            )
        if region is None:
            return (self._frame_outside(address, lookup_address),)
        if region.module is None:
            return (self._frame_without_module(address, lookup_address, region),)
        offset = address - region.mapping.start + region.mapping.offset
        # The return address after a call that ends a segment is outside of it.
        vaddr = region.module.elf.offset_to_vaddr(offset - int(is_return_address))
        if vaddr is None:
            reason = "its file has no code there"
            return (Frame(address, module=region.module.shown, unknown=reason),)
        try:
            return region.module.frames(address, vaddr + int(is_return_address), is_return_address)
        except ObjectFileError as error:
            return (Frame(address, module=region.module.shown, unknown=error.message),)

    def _region_after_refresh(self, address: int) -> Region | None:
        """The region at an address now. Refreshes that don't find one take at most a twentieth of
        the time: broken stacks can be full of addresses that aren't mapped."""
        now_s = time.monotonic()
        if now_s < self._next_refresh_s:
            return None
        try:
            self.refresh()
        except LeaktraceError:
            self._has_ended = True
        region = self.views.now.region_at(address)
        if region is None:
            took_s = time.monotonic() - now_s
            self._next_refresh_s = time.monotonic() + _PAUSE_FACTOR * took_s
        return region

    def _frame_outside(self, address: int, lookup_address: int) -> Frame:
        at = bisect_right(self._mappings, lookup_address, key=lambda mapping: mapping.start) - 1
        if (
            at >= 0
            and lookup_address < self._mappings[at].end
            and not self._mappings[at].is_executable
        ):
            name = printable(self._mappings[at].path) or None
            return Frame(address, module=name, unknown="not executable memory")
        ended = "not mapped when last read: the process has ended"
        return Frame(address, unknown=ended if self._has_ended else "not mapped")

    def _frame_without_module(self, address: int, lookup_address: int, region: Region) -> Frame:
        """A frame in memory without an object file, such as compiled just in time."""
        module = printable(region.mapping.path) or None
        problem = region.problem
        if self._perf_map and not region.mapping.is_file:
            match = self._perf_map.lookup(lookup_address)
            if match:
                offset = match.offset + (address - lookup_address)
                return Frame(address, demangle(match.name), offset, module)
            problem = f"{problem}; {self._perf_map.problem}"
        return Frame(address, module=module, unknown=problem)

    def _make_room(self, count: int) -> None:
        """Drop what is unmapped when too much is open or remembered."""
        view = self.views.now
        if self._objects.has_room_for(count) and len(view.regions) + count <= _MAX_REGIONS:
            return
        current = set(self._mappings)
        view.keep([region for region in view.regions if region.mapping in current])
        self._objects.keep(region.module for one in self.views for region in one.regions)
