"""Finds the debug information of an object on this machine, in the object or in a separate file.

It is searched in gdb's order ("Debugging Information in Separate Files"): the object itself; by
build ID under /usr/lib/debug; by .gnu_debuglink near the object and under /usr/lib/debug. The
target's file system comes before the tracer's. debuginfod.py asks servers.
"""

from __future__ import annotations

import lzma
import os
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from leaktrace.elf.object import ElfObject
from leaktrace.errors import ObjectFileError
from leaktrace.printable import printable
from leaktrace.symbols.lines import has_debug_information
from leaktrace.targets.root import TargetRoot

_DEBUG_DIRECTORY = "/usr/lib/debug"
_MAX_MINI_BYTES = 64 << 20  # of a .gnu_debugdata, decompressed
_MAX_LZMA_MEMORY_BYTES = 256 << 20
_PIECE_BYTES = 1 << 20
MANY_BYTES = 16 << 20  # reading more takes longer than a report should wait
_CRC_DEADLINE_S = 60.0
_MAX_CRC_BYTES = 4 << 30  # of a debug file; a sparse file of a terabyte takes no disk space


@dataclass(frozen=True)
class DebugFile:
    """The object that contains the debug information: `elf`, or None and the `problem`."""

    elf: ElfObject | None
    problem: str = ""


def find_debug_file(
    elf: ElfObject,
    path: str,
    roots: tuple[TargetRoot, ...],
    announce: Callable[[str], None] = lambda _: None,
) -> DebugFile:
    """Find the object that contains the debug information of `elf`, which may be `elf` itself.

    `path` is the target's path of the object; `roots` are searched in order. `announce` is called
    before something that takes long, with what that is.
    """
    if has_debug_information(elf):
        return DebugFile(elf)
    problems: list[str] = []
    for attempt in (_by_build_id(elf, roots), _by_debuglink(elf, path, roots, announce)):
        for candidate in attempt:
            if isinstance(candidate, ElfObject):
                return DebugFile(candidate)
            problems.append(candidate)
    return DebugFile(None, "; ".join(problems) or "no debug file is installed")


def mini_symbols(elf: ElfObject) -> ElfObject | None:
    """The object in .gnu_debugdata (xz), whose .symtab names the static functions ("MiniDebugInfo"
    in gdb's manual).

    None if the section is missing. Raises ObjectFileError when it is damaged.
    """
    found = elf.section(".gnu_debugdata")
    if not found:
        return None
    try:
        decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MAX_LZMA_MEMORY_BYTES)
        data = decompressor.decompress(found[0], _MAX_MINI_BYTES)
    except (lzma.LZMAError, MemoryError, EOFError) as error:
        raise ObjectFileError(f"{elf.shown}: .gnu_debugdata is damaged") from error
    if not decompressor.eof:
        raise ObjectFileError(f"{elf.shown}: .gnu_debugdata is damaged or too large")
    return ElfObject.from_bytes(data, f"{elf.shown}: .gnu_debugdata")


def _by_build_id(elf: ElfObject, roots: tuple[TargetRoot, ...]) -> Iterator[ElfObject | str]:
    if not elf.build_id or len(elf.build_id) < 4:
        return
    path = f"{_DEBUG_DIRECTORY}/.build-id/{elf.build_id[:2]}/{elf.build_id[2:]}.debug"
    for root in roots:
        candidate = _open(root, path)
        if candidate is None:
            continue
        if isinstance(candidate, ElfObject) and candidate.build_id != elf.build_id:
            yield f"{path} belongs to another build"
        else:
            yield candidate


def _by_debuglink(
    elf: ElfObject, path: str, roots: tuple[TargetRoot, ...], announce: Callable[[str], None]
) -> Iterator[ElfObject | str]:
    try:
        link = elf.debuglink
    except ObjectFileError as error:
        yield error.message
        return
    if link is None:
        return
    name, crc = link
    directory = str(PurePosixPath(path).parent)
    if "/" in name or name in ("", ".", "..") or not directory.startswith("/"):
        return
    places = (
        f"{directory}/{name}",
        f"{directory}/.debug/{name}",
        f"{_DEBUG_DIRECTORY}{directory}/{name}",
    )
    for root in roots:
        for place in places:
            candidate = _open(root, place)
            if candidate is None:
                continue
            if isinstance(candidate, ElfObject) and candidate.file_size > MANY_BYTES:
                size = f"{candidate.file_size >> 20:,} MB"
                announce(f"the checksum of {printable(place)} ({size})")
            problem = _crc_problem(candidate, crc)
            yield problem or candidate


def _open(root: TargetRoot, path: str) -> ElfObject | str | None:
    """The object at a path; None if there is no such file, a message if it can't be used."""
    try:
        descriptor = root.open(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return f"{printable(path)}: {error.strerror}"
    try:
        return ElfObject.open(descriptor, path, lambda: root.open(path))
    except ObjectFileError as error:
        return error.message
    finally:
        os.close(descriptor)


def _crc_problem(candidate: ElfObject | str, crc: int) -> str:
    """Why the file isn't the one that the debug link names: its CRC differs, or can't be computed.
    "" if it is, or if the candidate is a message already."""
    if isinstance(candidate, str):
        return ""
    if candidate.file_size > _MAX_CRC_BYTES:
        return f"{candidate.shown} is too large to be checked ({candidate.file_size:,} bytes)"
    found = 0
    deadline_s = time.monotonic() + _CRC_DEADLINE_S
    for at in range(0, candidate.file_size, _PIECE_BYTES):
        if time.monotonic() > deadline_s:
            return f"checking {candidate.shown} took more than {_CRC_DEADLINE_S:g} s"
        try:
            piece = candidate.read(at, min(_PIECE_BYTES, candidate.file_size - at))
        except ObjectFileError as error:
            return error.message
        found = zlib.crc32(piece, found)
    return "" if found == crc else f"{candidate.shown} belongs to another build (its CRC differs)"
