"""Names and lines that were missing when a recording was made, from files that there are now.

A file is used only if its build ID is the one that was recorded: another build would give wrong
names. What was recorded stays; only frames that lack a name, or a line, are looked up.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from leaktrace.elf.object import ElfObject
from leaktrace.errors import EnvironmentUnfitError, ObjectFileError, UsageError
from leaktrace.model import Measure, Report
from leaktrace.notices import progress
from leaktrace.options import LateNamesOptions, SymbolOptions
from leaktrace.printable import printable
from leaktrace.site import Frame, Site, Stack
from leaktrace.symbols.debug_information import LookupContext
from leaktrace.symbols.debuginfod import DebuginfodError, has_servers, kept_file
from leaktrace.symbols.lookups import CancelledError
from leaktrace.symbols.module import SIGNAL_FRAME, Module
from leaktrace.targets.root import TargetRoot

_BUILD_ID = re.compile(r"[0-9a-f]{8,64}")
_DEBUG_DIRECTORY = "/usr/lib/debug/.build-id"
_MOST_FILES = 1024
_MOST_KNOWN = 1 << 18  # frames that are remembered

_Place = tuple[str, str, int, bool]  # module, build ID, offset in it, is a return address


class LateNames:
    """Looks up what frames lack. Files are opened when they are first needed."""

    def __init__(self, options: LateNamesOptions) -> None:
        """Raises EnvironmentUnfitError if a directory can't be used, and UsageError if servers are
        wanted and none is known."""
        if options.debuginfod and not has_servers():
            raise UsageError(
                "--debuginfod asks the servers in DEBUGINFOD_URLS, which is not set",
                "set it to their addresses: DEBUGINFOD_URLS=http://HOST:8002 leaktrace …",
            )
        self._roots = tuple(_root(sysroot) for sysroot in options.sysroots)
        self._context = LookupContext.of(SymbolOptions())  # it waits for files and servers
        self._modules: dict[tuple[str, str], Module | None] = {}
        self._known: dict[_Place, tuple[Frame, ...]] = {}
        self._problems: dict[str, None] = {}

    @property
    def problems(self) -> list[str]:
        """Why frames are still without a name, a sentence for each file."""
        of_files = [one for one in self._modules.values() if one is not None and one.problem]
        return [*self._problems, *(f"{one.shown}: {one.problem}" for one in of_files)]

    def added_to(self, report: Report) -> Report:
        """The report with more names."""
        stacks = report.thread_stacks
        if stacks is not None:
            stacks = replace(stacks, sites=self._sites(stacks.sites, report))
        return replace(
            report,
            sites=self._sites(report.sites, report),
            thread_stacks=stacks,
            by_process=tuple(self.added_to(one) for one in report.by_process),
            sections=tuple(self.added_to(one) for one in report.sections),
            other_memory=tuple(self.added_to(one) for one in report.other_memory),
        )

    def _sites(self, sites: tuple[Site, ...], report: Report) -> tuple[Site, ...]:
        begins_with_call = report.measure is not Measure.FAULTS
        return tuple(
            replace(
                site,
                stack=self._stack(site.stack, begins_with_call),
                freed_at=tuple(
                    replace(one, stack=self._stack(one.stack, begins_with_call))
                    for one in site.freed_at
                ),
            )
            for site in sites
        )

    def _stack(self, stack: Stack, begins_with_call: bool) -> Stack:
        if all(frame.function and frame.source for frame in stack.frames):
            return stack
        frames: list[Frame] = []
        is_return_address = begins_with_call
        for group in _groups(stack.frames):
            frames += self._group(group, is_return_address)
            is_return_address = group[-1].function != SIGNAL_FRAME
        return replace(stack, frames=tuple(frames))

    def _group(self, group: tuple[Frame, ...], is_return_address: bool) -> tuple[Frame, ...]:
        """An address: inlined functions, and the one that they are inlined into."""
        physical = group[-1]
        if physical.function and physical.source:
            return group
        module, build_id, vaddr = physical.module, physical.build_id, physical.module_offset
        if module is None or build_id is None or vaddr is None:
            return group
        place = (module, build_id, vaddr, is_return_address)
        found = self._known.get(place)
        if found is None:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            found = self._known[place] = self._looked_up(place, physical.address)
        if not found:
            return group
        last = found[-1]
        if last.function is None or (physical.function and last.source is None):
            return group
        return tuple(
            replace(one, address=physical.address, module=module, build_id=build_id)
            for one in found
        )

    def _looked_up(self, place: _Place, address: int) -> tuple[Frame, ...]:
        module = self._module(*place[:2])
        if module is None:
            return ()
        try:
            return module.frames(address, place[2], place[3])
        except ObjectFileError as error:
            self._problems[error.message] = None
            return ()

    def _module(self, path: str, build_id: str) -> Module | None:
        key = (path, build_id)
        if key not in self._modules:
            if len(self._modules) >= _MOST_FILES:
                return None
            with progress(f"reading the symbols of {path}"):
                elf = self._open(path, build_id)
                module = None if elf is None else Module(elf, path, self._roots, self._context)
                if module is not None:
                    module.look_ahead()
            self._modules[key] = module
        return self._modules[key]

    def _open(self, path: str, build_id: str) -> ElfObject | None:
        """The file itself, its debug file, or that of a debuginfod server; None: there is none of
        this build, and why is one of the problems."""
        if not _BUILD_ID.fullmatch(build_id):
            return None
        debug = f"{_DEBUG_DIRECTORY}/{build_id[:2]}/{build_id[2:]}.debug"
        others: list[str] = []
        for root in self._roots:
            for place in (path, debug):
                elf = self._at(root, place, build_id, others) if place.startswith("/") else None
                if elf is not None:
                    return elf
        try:
            if has_servers():
                return kept_file(build_id) or self._context.servers.fetch(build_id)
        except (DebuginfodError, ObjectFileError, CancelledError) as error:
            others.append(f"{path}: debuginfod: {error}")
        self._problems.update(dict.fromkeys(others))
        return None

    def _at(
        self, root: TargetRoot, place: str, build_id: str, others: list[str]
    ) -> ElfObject | None:
        try:
            descriptor = root.open(place)
        except (OSError, ValueError):
            return None
        with open(descriptor, "rb", buffering=0) as file:  # noqa: PTH123 (a descriptor)
            try:
                elf = ElfObject.open(file.fileno(), place)
                if elf.build_id == build_id:
                    return elf
            except ObjectFileError as error:
                others.append(error.message)
                return None
        others.append(f"{printable(place)} is another build than the one that was recorded")
        return None


def _root(sysroot: Path) -> TargetRoot:
    try:
        return TargetRoot(str(sysroot))
    except OSError as error:
        raise EnvironmentUnfitError(
            f"can't use {printable(str(sysroot))} as --sysroot: {error.strerror}",
            "name a directory with the files of the recorded machine; / is this one",
        ) from None


def _groups(frames: tuple[Frame, ...]) -> Iterator[tuple[Frame, ...]]:
    """The frames of each address; inlined ones come before the physical one."""
    begin = 0
    for at, frame in enumerate(frames, 1):
        if not frame.inlined:
            yield frames[begin:at]
            begin = at
    if begin < len(frames):
        yield frames[begin:]
