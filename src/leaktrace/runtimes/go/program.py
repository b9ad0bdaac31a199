"""A running Go program, or another program with a Go library: its version, its table of functions
and where its data is. Nothing is written to it, and it is never stopped.

The files are those that are mapped (targets/mapped_files.py), also if they were replaced on disk.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

from leaktrace.arch.x86_64 import USER_SPACE_END
from leaktrace.elf.headers import PF_X
from leaktrace.elf.object import ElfObject
from leaktrace.errors import NotAnObjectError, ObjectFileError, TargetError
from leaktrace.go_report import GoLine
from leaktrace.printable import printable
from leaktrace.runtimes.go.code_table import CodeTable
from leaktrace.runtimes.go.layouts import (
    MODULE_DATA,
    MODULE_TEXT,
    MODULE_TEXT_END,
    NEWEST_MINOR,
    OLDEST_MINOR,
    Layout,
    layout_of,
)
from leaktrace.runtimes.go.memory import GoMemory
from leaktrace.runtimes.go.object_file import GoObject, is_go
from leaktrace.runtimes.go.version import BEFORE_1_18, GoVersion, read_version
from leaktrace.targets.mapped_files import MappedFiles, UnreachableFileError
from leaktrace.targets.mappings import Mapping, read_mappings

_MAX_OBJECTS = 2000  # mapped ones that are looked at


class NotGoError(TargetError):
    """The process doesn't contain Go code, or none of a kind that is understood."""


class UnknownGoError(NotGoError):
    """It does contain Go code, of another kind."""


@dataclass(frozen=True)
class Span:
    """[start, end) in the process."""

    start: int
    end: int

    @property
    def size(self) -> int:
        return self.end - self.start


@dataclass(frozen=True)
class GoProgram:
    """The Go code of a process. Addresses are those in the process."""

    pid: int
    path: str  # of the program or library, as the process sees it
    version: GoVersion
    layout: Layout
    table: CodeTable  # its addresses are less by `bias`
    bias: int
    text: Span
    data: dict[str, Span]  # by the names of `MODULE_DATA`
    types: Span
    memory: GoMemory
    is_library: bool = False  # it isn't the program that the process runs
    others: tuple[str, ...] = ()  # paths of other files with Go code in the process

    @property
    def build_id(self) -> str | None:
        """The GNU build ID of its file, which Go writes by itself since 1.24."""
        return self.table.found.elf.build_id

    @property
    def is_known_version(self) -> bool:
        """Whether the layout is that of its version, and not of the nearest one."""
        return self.version.minor is not None and self.version.minor <= NEWEST_MINOR

    def lines(self, address: int, *, is_return_address: bool = True) -> tuple[GoLine, ...]:
        """As `CodeTable.lines`. A goroutine that has not begun goes on at the start of a
        function."""
        vaddr = address - self.bias
        function = self.table.function_at(vaddr) if is_return_address else None
        is_behind_call = function is not None and vaddr > function[1]
        return self.table.lines(vaddr - 1 if is_behind_call else vaddr)

    def function_start(self, name: str) -> int | None:
        """Where the function of a name begins."""
        found = self.table.named(name)
        return found[0] + self.bias if found else None

    def code_of(self, name: str, most_bytes: int = 1 << 16) -> tuple[int, bytes] | None:
        """Where the function of a name is, and its code, from the file."""
        found = self.table.named(name)
        if found is None:
            return None
        start, end = found
        try:
            code = self.table.found.elf.read_vaddr(start, min(end - start, most_bytes))
        except ObjectFileError:
            return None
        return start + self.bias, code

    def file_offset(self, address: int) -> int | None:
        """Where in the file an address of code is."""
        vaddr = address - self.bias
        for one in self.table.found.elf.load_segments:
            if one.flags & PF_X and one.vaddr <= vaddr < one.vaddr + one.file_size:
                return vaddr - one.vaddr + one.offset
        return None

    @property
    def file(self) -> int | None:
        """A descriptor of the file; None if it isn't open."""
        return self.table.found.elf.descriptor


def open_go_program(pid: int) -> GoProgram:
    """Find the Go code of a process: of its program, or else of the first library that has some.

    Raises NotGoError where there is none, or none that can be read; TargetError when the process
    has ended, and TargetAccessError where privileges are missing.
    """
    refusal: UnreachableFileError | None = None
    damaged = ""
    files = MappedFiles(pid)
    objects = _objects(read_mappings(pid))
    for mapping in objects:
        try:
            elf = files.elf(mapping)
            program = _in_object(pid, elf, mapping)
        except UnreachableFileError as error:
            refusal = refusal or (error if error.capability is not None else None)
            continue
        except NotAnObjectError:
            continue
        except ObjectFileError as error:
            damaged = damaged or error.message
            continue
        if program is not None:
            is_library = not _is_program(pid, mapping)
            others = tuple(one.path for one in objects if _has_go(files, one))
            return replace(program, is_library=is_library, others=others)
    if refusal is not None:
        raise refusal.as_access_error()
    reason = f": {damaged}" if damaged else ""
    raise NotGoError(
        f"process {pid} is not a Go program, and has no Go library{reason}",
        "leaktrace -p PID finds leaks of malloc in any program",
    )


def _objects(mappings: tuple[Mapping, ...]) -> Iterator[Mapping]:
    """An executable mapping of each file. The program itself is mapped below its libraries, or is
    the first file in any case."""
    seen = set()
    for mapping in mappings:
        key = (mapping.device, mapping.inode, mapping.path)
        if mapping.is_file and mapping.is_executable and key not in seen:
            seen.add(key)
            yield mapping
            if len(seen) == _MAX_OBJECTS:
                return


def _is_program(pid: int, mapping: Mapping) -> bool:
    """Whether a file is the program that the process runs; also where that isn't known."""
    try:
        return os.stat(f"/proc/{pid}/exe").st_ino == mapping.inode  # noqa: PTH116
    except OSError:
        return True


def _has_go(files: MappedFiles, mapping: Mapping) -> bool:
    """Whether a file has Go code, as far as it can be read."""
    try:
        elf = files.elf(mapping)
        return is_go(elf) if elf.sections else read_version(elf) is not None
    except (UnreachableFileError, ObjectFileError):
        return False


def _in_object(pid: int, elf: ElfObject, mapping: Mapping) -> GoProgram | None:
    if elf.sections and not is_go(elf):
        return None
    version = read_version(elf)
    if version is None:
        return None
    _require_supported(pid, elf, version)
    found = GoObject.find(elf, anywhere=True)
    table = CodeTable.of(found, version) if found is not None else None
    bias = _bias(elf, mapping)
    if found is None or table is None or not found.module_vaddr or bias is None:
        raise UnknownGoError(
            f"process {pid} is a Go program ({printable(version.text)}), but its table of "
            "functions can't be read: its file is damaged or packed, or this version of Go is "
            "not known",
            "build it with Go 1.18 or later, and don't compress the file",
        )
    layout = layout_of(version.minor)

    def span(start_at: int, end_at: int) -> Span:
        start, end = found.module_word(start_at), found.module_word(end_at)
        if not 0 <= start <= end < USER_SPACE_END:
            return Span(0, 0)
        return Span(start + bias, end + bias)

    return GoProgram(
        pid=pid,
        path=mapping.path,
        version=version,
        layout=layout,
        table=table,
        bias=bias,
        text=span(MODULE_TEXT, MODULE_TEXT_END),
        data={name: span(at, at + 8) for name, at in MODULE_DATA.items()},
        types=span(layout.module_types, layout.module_types_end),
        memory=GoMemory(pid),
    )


def _require_supported(pid: int, elf: ElfObject, version: GoVersion) -> None:
    if elf.bits != 64:
        raise UnknownGoError(
            f"process {pid} is a 32-bit Go program", "build it with GOARCH=amd64 to look at it"
        )
    if elf.machine != "EM_X86_64":
        raise UnknownGoError(
            f"process {pid} is a Go program for another processor ({elf.machine})",
            "only Go programs for x86-64 (GOARCH=amd64) can be looked at",
        )
    if version == BEFORE_1_18 or (version.minor is not None and version.minor < OLDEST_MINOR):
        shown = f" ({printable(version.text)})" if version.text else ""
        raise UnknownGoError(
            f"process {pid} was built with a version of Go older than 1.18{shown}",
            "build it with Go 1.18 or later",
        )


def _bias(elf: ElfObject, mapping: Mapping) -> int | None:
    """What the virtual addresses of the file lack, to be those of the process."""
    for one in elf.load_segments:
        if one.flags & PF_X and mapping.address_of(one.offset) is not None:
            return mapping.start - mapping.offset + one.offset - one.vaddr
    return None
