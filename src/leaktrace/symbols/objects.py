"""The objects that a process maps or has mapped: each is opened once and stays open.

So names survive the deletion of a file, dlclose(3) and the end of the process.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path

from leaktrace.elf.object import ElfObject
from leaktrace.errors import ObjectFileError
from leaktrace.symbols.debug_information import LookupContext
from leaktrace.symbols.jit import PerfMap
from leaktrace.symbols.module import Module
from leaktrace.symbols.views import Region
from leaktrace.targets.loader import LoadedObject, code_mappings
from leaktrace.targets.mapped_files import MappedFiles
from leaktrace.targets.mappings import Mapping
from leaktrace.targets.root import TargetRoot
from leaktrace.targets.vdso import is_vdso, read_vdso
from leaktrace.unwind.fingerprint import fingerprint

MADE_AT_RUN_TIME = "code made at run time"  # why a frame has no name

_MAX_OBJECTS = 4096  # open ones; the walker has tables for as many


class MappedObjects:
    """Opens the objects of one process."""

    def __init__(self, pid: int, context: LookupContext) -> None:
        """Raises TargetError when the process has ended."""
        self.pid = pid
        self.files = MappedFiles(pid)
        self._context = context
        self._roots: tuple[TargetRoot, ...] = ()
        self._modules: dict[tuple[str, int, str | None], Module] = {}
        self._by_file: dict[tuple[str, int], Region] = {}  # the last region of each file

    def modules(self) -> Collection[Module]:
        """All that are open."""
        return self._modules.values()

    def has_room_for(self, count: int) -> bool:
        """Whether so many more can be opened."""
        return len(self._modules) + count <= _MAX_OBJECTS

    def keep(self, used: Iterable[Module | None]) -> None:
        """Drop all objects but these."""
        kept = {id(module) for module in used}
        self._modules = {key: m for key, m in self._modules.items() if id(m) in kept}
        self._by_file = {key: r for key, r in self._by_file.items() if id(r.module) in kept}

    def open_root(self) -> PerfMap | None:
        """Open the root directory of the process, in which debug files and the like are searched.

        Returns the perf map in it; None when the process has ended.
        """
        ours = TargetRoot("/")
        try:
            root = TargetRoot(f"/proc/{self.pid}/root")
            self._roots = (root,) if root.same_as("/") else (root, ours)
            status = Path(f"/proc/{self.pid}/status").read_text("utf-8", "replace")
        except OSError:
            self._roots = (ours,)
            return None
        fields = dict(line.partition(":")[::2] for line in status.splitlines())
        pid_inside = int(fields.get("NSpid", str(self.pid)).split()[-1])
        user = int(fields["Uid"].split()[1])
        return PerfMap(self._roots[0], pid_inside, user)

    def region(self, mapping: Mapping) -> Region:
        """A mapping with the object behind it, or the reason why there is none."""
        if is_vdso(mapping):
            return self._region_of_vdso(mapping)
        if not mapping.is_file:
            return _region_without_file(mapping)
        file = (mapping.device, mapping.inode)
        known = self._by_file.get(file)
        if known and known.module and known.module.elf.holds_file:
            return Region(mapping, known.module)
        try:
            if not self.has_room_for(1):
                raise ObjectFileError(f"more than {_MAX_OBJECTS:,} objects are mapped")
            region = Region(mapping, self._module(mapping, self.files.elf(mapping)))
        except ObjectFileError as error:
            region = Region(mapping, None, error.message)
        self._by_file[file] = region
        return region

    def regions_of_loaded(
        self, loaded: LoadedObject, mapped: Iterable[Mapping]
    ) -> tuple[Region, ...]:
        """The code of an object that the dynamic loader has loaded. It is identified among the
        present mappings, or, if it was unloaded since, by its path."""
        for mapping in mapped:
            if not loaded.start <= mapping.start < loaded.end:
                continue
            if is_vdso(mapping):
                return (self.region(mapping),)
            if mapping.is_executable and mapping.is_file:
                region = self.region(mapping)
                if region.module and region.module.fingerprint != loaded.fingerprint:
                    del self._by_file[mapping.device, mapping.inode]  # overwritten in place
                    region = self.region(mapping)
                if region.module and region.module.fingerprint == loaded.fingerprint != 0:
                    return (region,)
        path = self._absolute(loaded.path)
        try:
            if not loaded.is_whole:
                raise ObjectFileError("its name was lost")
            if not loaded.fingerprint:
                raise ObjectFileError("its headers could not be read in memory")
            return self._regions_by_path(loaded, path)
        except ObjectFileError as error:
            problem = f"it was unloaded before its file could be opened: {error.message}"
        mapping = Mapping(loaded.start, loaded.end, "r-xp", 0, "", loaded.identity, path)
        return (Region(mapping, None, problem),)

    def _regions_by_path(self, loaded: LoadedObject, path: str) -> tuple[Region, ...]:
        """Those of the file at a path, if that is the file that was loaded.

        Raises ObjectFileError.
        """
        known = [one for one in self._modules.values() if one.path == path]
        module = next((one for one in known if one.fingerprint == loaded.fingerprint), None)
        if module is None:
            elf = self._open_by_path(path)
            if fingerprint(elf) != loaded.fingerprint:
                elf.close()
                raise ObjectFileError("its file was replaced")
            module = Module(elf, path, self._roots, self._context)
            assert elf.descriptor is not None  # it was opened from a file
            status = os.fstat(elf.descriptor)
            self._modules[f"file on {status.st_dev}", status.st_ino, elf.build_id] = module
        mappings = code_mappings(module.elf, path, loaded.start)
        return tuple(Region(mapping, module) for mapping in mappings)

    def _absolute(self, path: str) -> str:
        """A path of the process. A relative one is resolved by its present working directory."""
        if not path or path.startswith("/"):
            return path
        with suppress(OSError):
            return os.path.normpath(Path(f"/proc/{self.pid}/cwd").readlink() / path)
        return path

    def _open_by_path(self, path: str) -> ElfObject:
        """Raises ObjectFileError."""
        root = self._roots[0]
        try:
            descriptor = root.open(path)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise ObjectFileError(f"its file can't be opened: {reason}") from error
        try:
            return ElfObject.open(descriptor, path, lambda: root.open(path))
        finally:
            os.close(descriptor)

    def _module(self, mapping: Mapping, elf: ElfObject) -> Module:
        key = (mapping.device, mapping.inode, elf.build_id)
        known = self._modules.get(key)
        # While its file was closed, the inode may have been reused.
        if known is None or not (known.elf.holds_file or known.elf.file_stamp == elf.file_stamp):
            self._modules[key] = Module(elf, mapping.path, self._roots, self._context)
        return self._modules[key]

    def _region_of_vdso(self, mapping: Mapping) -> Region:
        try:
            return Region(mapping, self._module(mapping, read_vdso(self.pid, mapping)))
        except ObjectFileError as error:
            return Region(mapping, None, error.message)


def _region_without_file(mapping: Mapping) -> Region:
    if mapping.path.startswith("["):
        return Region(mapping, None, "no file behind this memory")
    return Region(mapping, None, MADE_AT_RUN_TIME)
