"""Names of functions and modules without what differs from build to build.

parse.constprop.0                        parse
run(int)::{lambda(int)#2}::operator()    run(int)::{lambda(int)}::operator()
app::cache::insert::h0123456789abcdef    app::cache::insert
main.handle.func2                        main.handle.func
/usr/lib/libz.so.1.2.13                  libz.so
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import PurePosixPath

from leaktrace.model import Report

PROGRAM = "[program]"
_COMM_LENGTH = 15  # the kernel cuts names of processes: TASK_COMM_LEN of linux/sched.h

# Clones that GCC and LLVM make, as symbols and as demanglers write them.
_CLONE = re.compile(
    r"(?: \[clone [^\]]*\]"
    r"|\.(?:constprop|isra|part|cold|lto_priv|localalias|llvm|clone|specialized)(?:\.\d+)*)+"
)
_VERSION = re.compile(r"@@?[A-Za-z_][\w.]*$")  # of a symbol: malloc@@GLIBC_2.2.5
_RUST_HASH = re.compile(r"::h[0-9a-f]{16}$")
_NUMBERED = (
    (re.compile(r"(\{(?:lambda|unnamed type|closure|unnamed)[^{}]*)#\d+\}"), r"\1}"),
    (re.compile(r"'(lambda|unnamed)\d+'"), r"'\1'"),
    (re.compile(r"\$_\d+"), "$_"),  # Clang's closures
    (re.compile(r"(\.func)\d+(?=\.|$)"), r"\1"),  # Go's closures: main.handle.func2.1
    (re.compile(r"(?<=\.func)(?:\.\d+)+(?=\.|$)"), ""),
)
_OBJECT_VERSION = re.compile(r"(\.so)(?:\.[\w.]+)?$")
_DELETED = " (deleted)"


@lru_cache(maxsize=65_536)
def function_name(name: str) -> str:
    """The name of a function, as it is in each build of the same source."""
    plain = _RUST_HASH.sub("", _CLONE.sub("", _VERSION.sub("", name)))
    for pattern, replacement in _NUMBERED:
        plain = pattern.sub(replacement, plain)
    return plain or name


@lru_cache(maxsize=4096)
def object_name(path: str, command: str) -> str:
    """A module without its folder and version; PROGRAM if it is the program itself, by the name
    of the process."""
    name = PurePosixPath(path.removesuffix(_DELETED)).name or path
    if name[:_COMM_LENGTH] == command[:_COMM_LENGTH]:
        return PROGRAM
    return _OBJECT_VERSION.sub(r"\1", name)


def command_of(report: Report) -> str:
    """What a target is called, by which two are taken for the same program. Of the kernel, which
    has its version in its name, only what it is."""
    return report.target.kind if report.target.kind == "kernel" else report.target.command
