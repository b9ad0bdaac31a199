"""The files that executing a program will map, according to its own dynamic loader."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator

from leaktrace.arch.machines import this_machine
from leaktrace.elf.object import ElfObject
from leaktrace.errors import ObjectFileError, TargetError
from leaktrace.files import open_regular
from leaktrace.printable import printable

# Code of another machine may be mapped, but isn't executed: a probe would damage it.
_HERE = this_machine()
OUR_MACHINE = _HERE.elf if _HERE is not None else ""
_MAX_SHEBANGS = 4  # as many as execve(2) follows
_LOADER_DEADLINE_S = 30


class WrongMachineError(ObjectFileError):
    """An object is for another processor, or for a mode of this one that isn't supported."""

    def __init__(self, path: str, elf: ElfObject) -> None:
        mode = "" if elf.bits == 64 else f", {elf.bits} bits"
        super().__init__(
            f"{printable(path)} is built for {elf.machine}{mode}, which can't be traced here",
            f"only 64-bit programs for {os.uname().machine} can be traced on this machine",
        )


def objects_of_program(executable: str) -> Iterator[str]:
    """The files that executing `executable` will map: the program and the libraries that it is
    linked with, which its own dynamic loader lists (ld.so(8), --list). If the loader doesn't, they
    are found when they are mapped."""
    for _ in range(_MAX_SHEBANGS):
        interpreter = _shebang(executable)
        if interpreter is None:
            break
        executable = interpreter
    yield executable
    with ElfObject.open(executable) as elf:
        loader = elf.interpreter
        if elf.machine != OUR_MACHINE or elf.bits != 64:
            wrong = WrongMachineError(executable, elf)
            raise TargetError(wrong.message, wrong.hint)
    if loader is None:
        return
    try:
        listing = subprocess.run(
            # $ORIGIN is the directory of the real path, which the kernel executes.
            [loader, "--list", os.path.realpath(executable)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=_LOADER_DEADLINE_S,
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return
    for line in listing.split(b"\n"):
        match = re.search(rb"(/\S.*?) \(0x[0-9a-f]+\)$", line)
        if match and os.path.exists(match[1]):  # noqa: PTH110 (never raises)
            yield os.fsdecode(match[1])


def _shebang(path: str) -> str | None:
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            first = file.read(256).split(b"\n", 1)[0]
    except OSError as error:
        raise TargetError(
            f"can't read {path}: {error.strerror}", "check the command's permissions"
        ) from None
    if not first.startswith(b"#!"):
        return None
    words = first[2:].split()
    return words[0].decode(errors="surrogateescape") if words else None
