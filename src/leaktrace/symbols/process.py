"""Addresses of a running process to frames."""

from __future__ import annotations

import os
import time
import weakref
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from leaktrace.elf import ElfObject
from leaktrace.errors import LeaktraceError, ObjectFileError, TargetError
from leaktrace.model import Frame
from leaktrace.symbols.demangle import demangle
from leaktrace.symbols.jit import PerfMap
from leaktrace.symbols.module import SIGNAL_FRAME, Module
from leaktrace.symbols.names import printable
from leaktrace.symbols.options import SymbolOptions
from leaktrace.target.mapped_files import MappedFiles
from leaktrace.target.mappings import Mapping, read_mappings
from leaktrace.target.memory import ProcessMemory
from leaktrace.target.root import TargetRoot

_MAX_VDSO_BYTES = 1 << 20
_MAX_REGIONS = 65_536  # mappings kept, those of the past included
_MAX_OBJECTS = 4096  # kept, as many as the walker has tables for
_REST = 19  # times as long as a look in vain took


@dataclass(frozen=True)
class _Region:
    """Executable memory and the object behind it, or why there is none."""

    mapping: Mapping
    module: Module | None
    problem: str = ""


class ProcessSymbolizer:
    """Names for the code addresses of one process.

    Objects are opened when their mapping is first seen and stay open, so names survive the
    deletion of a file, dlclose and the end of the process.
    """

    def __init__(self, pid: int, options: SymbolOptions | None = None) -> None:
        """Opens the process and reads its mappings. Raises TargetError when it is gone."""
        self.pid = pid
        self._options = options or SymbolOptions()
        try:
            # Files in this directory can't be opened any more once the process has ended, so a
            # pid that is used again is never taken for the target.
            self._directory = os.open(f"/proc/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise TargetError(
                f"process {pid} is gone", "check the process id: it may have ended just now"
            ) from error
        weakref.finalize(self, os.close, self._directory)
        self._files = MappedFiles(pid)
        self._modules: dict[tuple[str, int, str | None], Module] = {}
        self._by_file: dict[tuple[str, int], _Region] = {}
        self._regions: list[_Region] = []
        self._starts: list[int] = []
        self._frames: dict[tuple[int, bool], tuple[Frame, ...]] = {}
        self._roots: tuple[TargetRoot, ...] = ()
        self._perf_map: PerfMap | None = None
        self._mappings: tuple[Mapping, ...] = ()
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
        if not self.is_alive():
            raise TargetError(f"process {self.pid} is gone", "its symbols known so far are used")
        if self._stale:
            self._open_root()
            self._stale = False
        self._mappings = mappings
        known = {region.mapping for region in self._regions}
        new = [m for m in mappings if m.is_executable and m not in known]
        if not new:
            return False
        self._make_room(len(new))
        added = [self._open_region(mapping) for mapping in new]
        # What was unmapped and not yet covered by anything else still names older stacks.
        starts = [mapping.start for mapping in new]
        kept = [
            r for r in self._regions if not _covered(r.mapping.start, r.mapping.end, new, starts)
        ]
        self._regions = sorted((*kept, *added), key=lambda region: region.mapping.start)
        self._starts = [region.mapping.start for region in self._regions]
        self._frames = {
            (address, is_return): frames
            for (address, is_return), frames in self._frames.items()
            if not _covered(address - is_return, address - is_return + 1, new, starts)
        }
        return True

    def expect_new_names(self) -> None:
        """Have names seen that the process has given to generated code until now, also if it has
        ended since."""
        if self._perf_map:
            self._perf_map.refresh()

    def symbolize(self, address: int, is_return_address: bool = True) -> tuple[Frame, ...]:
        """The frames at an address: inlined ones first, innermost first, the physical one last.

        `is_return_address`: the function is that of the call before it. Never raises and never
        empty: a frame without a name says why in `unknown`.
        """
        key = (address, is_return_address)
        frames = self._frames.get(key)
        if frames is None:
            frames = self._symbolize(address, is_return_address)
            if frames[-1].unknown is None or frames[-1].module_offset is not None:
                self._frames[key] = frames
        return frames

    def symbolize_stack(self, addresses: Iterable[int]) -> tuple[Frame, ...]:
        """The frames of a stack of return addresses, leaf first.

        What a signal interrupted is an instruction that was to be executed, not one after a call:
        the address after a signal frame is looked up as it stands.
        """
        frames: list[Frame] = []
        is_return_address = True
        for address in addresses:
            frames += self.symbolize(address, is_return_address)
            is_return_address = frames[-1].function != SIGNAL_FRAME
        return tuple(frames)

    def forget(self) -> None:
        """Drops all that execve(2) replaces: mappings and addresses. Open objects are kept."""
        self._regions, self._starts, self._frames = [], [], {}
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

    def _symbolize(self, address: int, is_return_address: bool) -> tuple[Frame, ...]:
        wanted = address - 1 if is_return_address else address
        region = self._region(wanted)
        if region is None:
            region = self._region_after_another_look(wanted)
        if region is None:
            return (self._outside(address, wanted),)
        if region.module is None:
            return (self._generated(address, wanted, region),)
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

    def _region(self, address: int) -> _Region | None:
        last = bisect_right(self._starts, address) - 1
        if last >= 0 and address < self._regions[last].mapping.end:
            return self._regions[last]
        return None

    def _region_after_another_look(self, address: int) -> _Region | None:
        """What lies at an address now. Looking in vain takes a twentieth of the time at most:
        broken stacks can be full of addresses that are nowhere."""
        now = time.monotonic()
        if now < self._next_look:
            return None
        try:
            self.refresh()
        except LeaktraceError:
            self._ended = True
        region = self._region(address)
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

    def _generated(self, address: int, wanted: int, region: _Region) -> Frame:
        """A frame in memory without an object file, such as compiled just in time."""
        module = printable(region.mapping.path) or None
        problem = region.problem
        if self._perf_map:
            match = self._perf_map.lookup(wanted)
            if match:
                offset = match.offset + (address - wanted)
                return Frame(address, demangle(match.name), offset, module)
            problem = f"{problem}; {self._perf_map.problem}"
        return Frame(address, module=module, unknown=problem)

    def _make_room(self, count: int) -> None:
        """Lets what was unmapped go when too much is open or remembered."""
        if (
            len(self._modules) + count <= _MAX_OBJECTS
            and len(self._regions) + count <= _MAX_REGIONS
        ):
            return
        current = set(self._mappings)
        self._regions = [region for region in self._regions if region.mapping in current]
        used = {id(region.module) for region in self._regions}
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

    def _open_region(self, mapping: Mapping) -> _Region:
        if not mapping.is_file:
            return self._open_vdso(mapping) if mapping.path == "[vdso]" else _without_file(mapping)
        file = (mapping.device, mapping.inode)
        known = self._by_file.get(file)
        if known and known.module and known.module.elf.holds_file:
            return _Region(mapping, known.module)
        try:
            if len(self._modules) >= _MAX_OBJECTS:
                raise ObjectFileError(f"more than {_MAX_OBJECTS:,} objects are mapped")
            region = _Region(mapping, self._module(mapping, self._files.elf(mapping)))
        except ObjectFileError as error:
            region = _Region(mapping, None, error.message)
        self._by_file[file] = region
        return region

    def _module(self, mapping: Mapping, elf: ElfObject) -> Module:
        key = (mapping.device, mapping.inode, elf.build_id)
        known = self._modules.get(key)
        # While one was closed, its inode may have become another file's.
        if known is None or not (known.elf.holds_file or known.elf.file_stamp == elf.file_stamp):
            self._modules[key] = Module(elf, mapping.path, self._roots, self._options)
        return self._modules[key]

    def _open_vdso(self, mapping: Mapping) -> _Region:
        try:
            with ProcessMemory(self.pid) as memory:
                size = min(mapping.end - mapping.start, _MAX_VDSO_BYTES)
                data = memory.read(mapping.start, size)
            elf = ElfObject.from_bytes(data, mapping.path)
        except OSError as error:
            return _Region(mapping, None, f"the vDSO can't be read: {error.strerror}")
        except ObjectFileError as error:
            return _Region(mapping, None, error.message)
        return _Region(mapping, self._module(mapping, elf))


def _without_file(mapping: Mapping) -> _Region:
    if mapping.path.startswith("["):
        return _Region(mapping, None, "no file behind this memory")
    return _Region(mapping, None, "code made at run time")


def _covered(start: int, end: int, mappings: list[Mapping], starts: list[int]) -> bool:
    """Whether one of some disjoint mappings, in order, has a part of this range."""
    last = bisect_left(starts, end) - 1
    return last >= 0 and mappings[last].end > start
