"""Addresses of a running process to frames."""

from __future__ import annotations

import os
import time
import weakref
from bisect import bisect_right
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from leaktrace.elf.object import ElfObject
from leaktrace.errors import LeaktraceError, ObjectFileError, TargetError
from leaktrace.model import Frame
from leaktrace.own.shortages import shortage
from leaktrace.printable import printable
from leaktrace.symbols.demangle import demangle
from leaktrace.symbols.information import Means
from leaktrace.symbols.jit import PerfMap
from leaktrace.symbols.lookups import Lookups
from leaktrace.symbols.module import SIGNAL_FRAME, Module
from leaktrace.symbols.options import SymbolOptions
from leaktrace.symbols.views import CodeView, CodeViews, Region
from leaktrace.targets.loader import LoadedObject, code_mappings
from leaktrace.targets.mapped_files import MappedFiles
from leaktrace.targets.mappings import Mapping, read_mappings
from leaktrace.targets.memory import ProcessMemory
from leaktrace.targets.moved_text import MovedText
from leaktrace.targets.root import TargetRoot
from leaktrace.unwind.fingerprint import fingerprint
from leaktrace.unwind.process import VDSO

_MAX_VDSO_BYTES = 1 << 20
_MAX_REGIONS = 65_536  # mappings kept, those of the past included
_MAX_LOADED = 4096  # places of objects that come and go
_MAX_TOLD = 65_536  # of which the paths are remembered
_MAX_OBJECTS = 4096  # kept, as many as the walker has tables for
_REST = 19  # times as long as a look in vain took


class ProcessSymbolizer:
    """Names for the code addresses of one process.

    Objects are opened when their mapping is first seen and stay open, so names survive the
    deletion of a file, dlclose and the end of the process.
    """

    def __init__(
        self, pid: int, options: SymbolOptions | None = None, lookups: Lookups | None = None
    ) -> None:
        """Opens the process and reads its mappings. Raises TargetError when it is gone.

        Debug information is read beside, by `lookups`, and frames have more names and lines once
        that has arrived; without them, the first look into an object takes as long as it takes.
        """
        self.pid = pid
        self._means = Means.of(options or SymbolOptions(), lookups)
        self._arrived = 0  # look-ups, when the frames were made
        try:
            # Files in this directory can't be opened any more once the process has ended, so a
            # pid that is used again is never taken for the target.
            self._directory = os.open(f"/proc/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise shortage(error) or TargetError(
                f"process {pid} is gone", "check the process id: it may have ended just now"
            ) from error
        weakref.finalize(self, os.close, self._directory)
        self._files = MappedFiles(pid)
        self._modules: dict[tuple[str, int, str | None], Module] = {}
        self._by_file: dict[tuple[str, int], Region] = {}
        self.views = CodeViews()
        self._loaded: dict[Mapping, Region] = {}
        self._by_place: dict[tuple[int, int], tuple[Region, ...]] = {}
        self._told: dict[tuple[int, int], LoadedObject] = {}
        self._roots: tuple[TargetRoot, ...] = ()
        self._perf_map: PerfMap | None = None
        self._mappings: tuple[Mapping, ...] = ()
        self._moved_text = MovedText(pid, self._files)
        self._next_look = 0.0
        self._ended = False
        self._stale = True
        self.refresh()

    def refresh(self, mappings: tuple[Mapping, ...] | None = None) -> bool:
        """Opens what is new among the mappings, which are read again unless the caller has just
        done so; whether executable memory has changed.

        Raises TargetError when the process is gone; what is known so far can be used on.
        """
        self.expect_new_names()
        if mappings is None:
            mappings = read_mappings(self.pid)
        mappings = self._moved_text.recognised(mappings)
        if not self.is_alive():
            raise TargetError(f"process {self.pid} is gone", "its symbols known so far are used")
        if self._stale:
            self._open_root()
            self._stale = False
        self._mappings = mappings
        # What could not be opened may be there again.
        now = {one.mapping: one for one in self.views.now.regions if not one.is_unopened}
        known = now | self._loaded
        executable = [mapping for mapping in mappings if mapping.is_executable]
        new = [mapping for mapping in executable if mapping not in known]
        if not new and all(now.get(mapping) == known[mapping] for mapping in executable):
            return False
        self._make_room(len(new))
        regions = [known.get(one) or self._open_region(one) for one in executable]
        self.views.see(regions)
        return True

    def see_loaded(self, loaded: LoadedObject, mapped: Callable[[], tuple[Mapping, ...]]) -> bool:
        """Take in what the dynamic loader has loaded; it may be gone by now. `mapped` tells what is
        there now. Returns whether it was not met before in this place."""
        known = self._by_place.get(loaded.place)
        is_new = known is None or any(region.is_unopened for region in known)
        if known is None or is_new:
            if len(self._by_place) >= _MAX_LOADED:
                self._by_place.clear()
                self._loaded.clear()
            if len(self._told) >= _MAX_TOLD:
                self._told.clear()
            # Of what has come back only the place is told.
            whole = loaded if loaded.is_whole else self._told.get(loaded.place, loaded)
            self._told[loaded.place] = whole
            known = self._by_place[loaded.place] = self._loaded_regions(whole, mapped())
        self._loaded |= {region.mapping: region for region in known if region.module}
        self.views.see_loaded(loaded.epoch, known)
        return is_new

    def object_behind(self, mapping: Mapping) -> ElfObject | None:
        """The open object behind a mapping of the present view, which may be gone by now."""
        region = self.views.now.region_at(mapping.start)
        if region is None or region.mapping != mapping:
            region = self._loaded.get(mapping)
        return region.module.elf if region is not None and region.module is not None else None

    @property
    def mappings(self) -> tuple[Mapping, ...]:
        """Those that the process had when they were last read."""
        return self._mappings

    def loaded(self) -> tuple[Mapping, ...]:
        """Where objects were that the loader has told of, `see_loaded`."""
        return tuple(self._loaded)

    def look_ahead(self) -> None:
        """Begin to look up the names and lines of the program itself, which most stacks go through:
        where that takes long, the only report of a run has them all the same."""
        try:
            path = os.readlink("exe", dir_fd=self._directory)
        except OSError:
            return
        regions = (region for region in self.views.now.regions if region.mapping.path == path)
        module = next((region.module for region in regions if region.module), None)
        if module is not None:
            module.look_ahead()

    def expect_new_names(self) -> None:
        """Have names seen that the process has given to generated code until now, also if it has
        ended since."""
        if self._perf_map:
            self._perf_map.refresh()

    def symbolize(
        self, address: int, is_return_address: bool = True, view: CodeView | None = None
    ) -> tuple[Frame, ...]:
        """The frames at an address: inlined ones first, innermost first, the physical one last.

        `is_return_address`: the function is that of the call before it. `view`: of the code as it
        was; without one, as it is. Never raises and never empty: a frame without a name says why in
        `unknown`.
        """
        view = view or self.views.now
        key, lookups = (address, is_return_address), self._means.lookups
        frames: tuple[Frame, ...] | None = None
        while frames is None or self._arrived != lookups.arrived:
            if self._arrived != lookups.arrived:  # names that these frames were made without
                self._arrived = lookups.arrived
                self.views.forget_frames()
            frames = view.frames.get(key) or self._symbolize(address, is_return_address, view)
        if frames[-1].unknown is None or frames[-1].module_offset is not None:
            view.frames[key] = frames
        return frames

    def symbolize_stack(
        self, addresses: Iterable[int], view: CodeView | None = None
    ) -> tuple[Frame, ...]:
        """The frames of a stack of return addresses, leaf first; `view` as above.

        What a signal interrupted is an instruction that was to be executed, not one after a call:
        the address after a signal frame is looked up as it stands.
        """
        frames: list[Frame] = []
        is_return_address = True
        for address in addresses:
            frames += self.symbolize(address, is_return_address, view)
            is_return_address = frames[-1].function != SIGNAL_FRAME
        return tuple(frames)

    def forget(self) -> None:
        """Drops all that execve(2) replaces: mappings and addresses. Open objects are kept."""
        self.views = CodeViews()
        self._loaded, self._by_place, self._told = {}, {}, {}
        self._stale = True

    def is_alive(self) -> bool:
        """Whether the process, and not another of its pid, still has an address space."""
        try:
            descriptor = os.open("stat", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._directory)
        except OSError:
            return False
        os.close(descriptor)
        return True

    def notes(self) -> tuple[str, ...]:
        """What the reader should know of objects that were looked into: why lines are missing."""
        files = [module for module in self._modules.values() if not module.path.startswith("[")]
        return tuple(f"{module.shown}: {module.problem}" for module in files if module.problem)

    # -- looking up -------------------------------------------------------------------------

    def _symbolize(
        self, address: int, is_return_address: bool, view: CodeView
    ) -> tuple[Frame, ...]:
        wanted = address - 1 if is_return_address else address
        region = view.region_at(wanted)
        if region is None and view is self.views.now:
            region = self._region_after_another_look(wanted)
        if region is None and view is not self.views.now:
            gone = "too many libraries have come and gone"
            return (Frame(address, unknown=gone if view.is_forgotten else "not mapped then"),)
        if region is None:
            return (self._outside(address, wanted),)
        if region.module is None:
            return (self._without_module(address, wanted, region),)
        offset = address - region.mapping.start + region.mapping.offset
        # The return address after a call that ends a segment lies outside it.
        vaddr = region.module.elf.offset_to_vaddr(offset - int(is_return_address))
        if vaddr is None:
            reason = "its file has no code there"
            return (Frame(address, module=region.module.shown, unknown=reason),)
        try:
            return region.module.frames(address, vaddr + int(is_return_address), is_return_address)
        except ObjectFileError as error:
            return (Frame(address, module=region.module.shown, unknown=error.message),)

    def _region_after_another_look(self, address: int) -> Region | None:
        """What lies at an address now. Looking in vain takes a twentieth of the time at most:
        broken stacks can be full of addresses that are nowhere."""
        now = time.monotonic()
        if now < self._next_look:
            return None
        try:
            self.refresh()
        except LeaktraceError:
            self._ended = True
        region = self.views.now.region_at(address)
        if region is None:
            self._next_look = time.monotonic() + _REST * (time.monotonic() - now)
        return region

    def _outside(self, address: int, wanted: int) -> Frame:
        at = bisect_right(self._mappings, wanted, key=lambda mapping: mapping.start) - 1
        if at >= 0 and wanted < self._mappings[at].end and not self._mappings[at].is_executable:
            name = printable(self._mappings[at].path) or None
            return Frame(address, module=name, unknown="not executable memory")
        return Frame(
            address,
            unknown="not mapped when last seen: it has ended" if self._ended else "not mapped",
        )

    def _without_module(self, address: int, wanted: int, region: Region) -> Frame:
        """A frame in memory without an object file, such as compiled just in time."""
        module = printable(region.mapping.path) or None
        problem = region.problem
        if self._perf_map and not region.mapping.is_file:
            match = self._perf_map.lookup(wanted)
            if match:
                offset = match.offset + (address - wanted)
                return Frame(address, demangle(match.name), offset, module)
            problem = f"{problem}; {self._perf_map.problem}"
        return Frame(address, module=module, unknown=problem)

    def _make_room(self, count: int) -> None:
        """Lets what was unmapped go when too much is open or remembered."""
        regions = len(self.views.now.regions)
        if len(self._modules) + count <= _MAX_OBJECTS and regions + count <= _MAX_REGIONS:
            return
        current = set(self._mappings)
        view = self.views.now
        view.keep([region for region in view.regions if region.mapping in current])
        used = {id(region.module) for one in self.views for region in one.regions}
        self._modules = {key: m for key, m in self._modules.items() if id(m) in used}
        self._by_file = {key: r for key, r in self._by_file.items() if id(r.module) in used}

    # -- opening ----------------------------------------------------------------------------

    def _open_root(self) -> None:
        ours = TargetRoot("/")
        try:
            root = TargetRoot(f"/proc/{self.pid}/root")
            self._roots = (root,) if root.same_as("/") else (root, ours)
            status = Path(f"/proc/{self.pid}/status").read_text("utf-8", "replace")
        except OSError:
            self._roots, self._perf_map = (ours,), None
            return
        fields = dict(line.partition(":")[::2] for line in status.splitlines())
        pid_inside = int(fields.get("NSpid", str(self.pid)).split()[-1])
        user = int(fields["Uid"].split()[1])
        self._perf_map = PerfMap(self._roots[0], pid_inside, user)

    def _loaded_regions(
        self, loaded: LoadedObject, mapped: Iterable[Mapping]
    ) -> tuple[Region, ...]:
        """Where the code of an object was, and what is known of it."""
        for mapping in mapped:
            is_inside = loaded.start <= mapping.start < loaded.end
            if is_inside and mapping.path == VDSO:
                return (self._open_region(mapping),)
            if is_inside and mapping.is_executable and mapping.is_file:
                region = self._open_region(mapping)
                if region.module and region.module.fingerprint != loaded.fingerprint:
                    del self._by_file[mapping.device, mapping.inode]  # written over in place
                    region = self._open_region(mapping)
                if region.module and region.module.fingerprint == loaded.fingerprint != 0:
                    return (region,)
        path = self._absolute(loaded.path)
        try:
            if not loaded.is_whole:
                raise ObjectFileError("its name was not told")
            if not loaded.fingerprint:
                raise ObjectFileError("its headers could not be read in memory")
            return self._regions_by_path(loaded, path)
        except ObjectFileError as error:
            problem = f"it was unloaded before its file could be opened: {error.message}"
        mapping = Mapping(loaded.start, loaded.end, "r-xp", 0, "", loaded.identity, path)
        return (Region(mapping, None, problem),)

    def _regions_by_path(self, loaded: LoadedObject, path: str) -> tuple[Region, ...]:
        """Those of the file that a path leads to, if it is that which was loaded.

        Raises ObjectFileError.
        """
        known = [one for one in self._modules.values() if one.path == path]
        module = next((one for one in known if one.fingerprint == loaded.fingerprint), None)
        if module is None:
            elf = self._open_by_path(path)
            if fingerprint(elf) != loaded.fingerprint:
                elf.close()
                raise ObjectFileError("its file was replaced")
            module = Module(elf, path, self._roots, self._means)
            assert elf.descriptor is not None  # it was opened from a file
            status = os.fstat(elf.descriptor)
            self._modules[f"file on {status.st_dev}", status.st_ino, elf.build_id] = module
        mappings = code_mappings(module.elf, path, loaded.start)
        return tuple(Region(mapping, module) for mapping in mappings)

    def _absolute(self, path: str) -> str:
        """A path that the process has given, by its present working directory."""
        if not path or path.startswith("/"):
            return path
        with suppress(OSError):
            return os.path.normpath(Path(f"/proc/{self.pid}/cwd").readlink() / path)
        return path

    def _open_by_path(self, path: str) -> ElfObject:
        """Raises ObjectFileError."""
        try:
            descriptor = self._roots[0].open(path)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise ObjectFileError(f"its file can't be opened: {reason}") from error
        try:
            return ElfObject.open(descriptor, path, lambda: self._roots[0].open(path))
        finally:
            os.close(descriptor)

    def _open_region(self, mapping: Mapping) -> Region:
        if not mapping.is_file:
            return self._open_vdso(mapping) if mapping.path == VDSO else _without_file(mapping)
        file = (mapping.device, mapping.inode)
        known = self._by_file.get(file)
        if known and known.module and known.module.elf.holds_file:
            return Region(mapping, known.module)
        try:
            if len(self._modules) >= _MAX_OBJECTS:
                raise ObjectFileError(f"more than {_MAX_OBJECTS:,} objects are mapped")
            region = Region(mapping, self._module(mapping, self._files.elf(mapping)))
        except ObjectFileError as error:
            region = Region(mapping, None, error.message)
        self._by_file[file] = region
        return region

    def _module(self, mapping: Mapping, elf: ElfObject) -> Module:
        key = (mapping.device, mapping.inode, elf.build_id)
        known = self._modules.get(key)
        # While one was closed, its inode may have become another file's.
        if known is None or not (known.elf.holds_file or known.elf.file_stamp == elf.file_stamp):
            self._modules[key] = Module(elf, mapping.path, self._roots, self._means)
        return self._modules[key]

    def _open_vdso(self, mapping: Mapping) -> Region:
        try:
            with ProcessMemory(self.pid) as memory:
                size = min(mapping.end - mapping.start, _MAX_VDSO_BYTES)
                data = memory.read(mapping.start, size)
            elf = ElfObject.from_bytes(data, mapping.path)
        except OSError as error:
            return Region(mapping, None, f"the vDSO can't be read: {error.strerror}")
        except ObjectFileError as error:
            return Region(mapping, None, error.message)
        return Region(mapping, self._module(mapping, elf))


def _without_file(mapping: Mapping) -> Region:
    if mapping.path.startswith("["):
        return Region(mapping, None, "no file behind this memory")
    return Region(mapping, None, "code made at run time")
