"""Addresses and sizes of thousands of calls with random arguments are right, on every path through
the functions, for every allocator and several versions of each.

The short form runs on what is installed; LEAKTRACE_LENGTH=long on more of each, and on the
libraries of several releases (tests/support/libraries.py).
"""

from __future__ import annotations

import ctypes.util
from pathlib import Path

import pytest
from distribution import UnavailableError
from harness.accounts import differences, recorded
from harness.compiling import Compiler
from harness.length import IS_LONG, chosen
from libraries import LIBRARIES, Library, loader, oldest_interface

pytestmark = pytest.mark.usefixtures("require_bpf")

CALLS = 100_000 if IS_LONG else 20_000  # of each function

C, CPP = "arguments.c", "operators_by_chance.cpp"

# (allocator, program, threads and further arguments)
INSTALLED = (
    ("glibc", C, "8"),
    ("glibc", CPP, "8"),
    ("static glibc", C, "8"),
    ("musl", C, "8"),
    ("jemalloc", C, "8"),
    ("jemalloc", CPP, "8"),
    ("tcmalloc_minimal", C, "8"),
    ("tcmalloc_minimal", CPP, "8"),
    ("mimalloc", C, "8"),
)
MORE = (
    ("glibc", C, "1"),
    ("glibc", C, "1 short"),
    ("glibc", C, "8 short"),
    ("glibc", CPP, "1"),
    ("glibc", CPP, "8 short"),
    ("static glibc", C, "1"),
    ("static glibc", C, "8 short"),
    ("static glibc", CPP, "8"),
    ("musl", C, "1"),
    ("musl", C, "8 short"),
    ("jemalloc", C, "1"),
    ("jemalloc", C, "1 short"),  # with eight threads it crashes when it runs short
    ("tcmalloc_minimal", C, "1"),
    ("mimalloc", C, "1"),
    ("mimalloc", CPP, "8"),
)
# With these the C library's malloc takes other paths.
TUNABLES = (
    "glibc.malloc.tcache_count=0",
    "glibc.malloc.arena_max=1",
    "glibc.malloc.mmap_threshold=4096",
    "glibc.malloc.tcache_count=0:glibc.malloc.mxfast=0",
)


# Known faults of libraries, traced or not.
UNABLE = {
    ("mimalloc", CPP): "-DNOTHING_IMPOSSIBLE",  # it aborts where it should throw
    ("mimalloc of bookworm", CPP): "-DNOTHING_IMPOSSIBLE",
    ("mimalloc of trixie", CPP): "-DNOTHING_IMPOSSIBLE",
    ("mimalloc of trixie", C): "-DNOTHING_ALIGNED",  # 3.0.1 crashes
    ("musl of bullseye", C): "-DNOTHING_IMPOSSIBLE",  # 1.2.2 writes where it has found no room
}


def flags(allocator: str, source: str) -> list[str]:
    """For the compiler."""
    unable = [UNABLE[allocator, source]] if (allocator, source) in UNABLE else []
    return [*(["-DWITH_PVALLOC"] if "glibc" in allocator and source == C else []), *unable]


def check(
    argv: list[str | Path], arguments: str, account: Path, env: dict[str, str] | None = None
) -> None:
    words = [*argv, account, str(CALLS), *arguments.split()]
    ours, theirs = recorded(words, account, env)
    assert len(theirs) > CALLS / 20  # when it runs short; otherwise it is more than CALLS
    assert differences(ours, theirs) == []
    assert len(ours) == len(theirs)


@pytest.mark.parametrize(
    ("allocator", "source", "arguments"),
    [*INSTALLED, *(MORE if IS_LONG else ())],
    ids=lambda value: str(value).replace(" ", "-"),
)
@pytest.mark.may_skip("not every machine has every allocator")
def test_no_argument_of_many_is_wrong(
    allocator: str, source: str, arguments: str, compiled: Compiler, tmp_path: Path
) -> None:
    static = ["-static"] if allocator == "static glibc" else []
    env = {}
    if allocator not in ("glibc", "static glibc", "musl"):
        library = ctypes.util.find_library(allocator)
        if library is None:
            pytest.skip(f"lib{allocator} is not installed")
        env["LD_PRELOAD"] = library
    compiler = "musl-gcc" if allocator == "musl" else ""
    program = compiled(source, *flags(allocator, source), *static, compiler=compiler)
    check([program], arguments, tmp_path / "account", env)


@pytest.mark.parametrize("tunables", chosen(TUNABLES[:1], TUNABLES[1:]))
def test_on_other_paths_of_the_c_library(tunables: str, compiled: Compiler, tmp_path: Path) -> None:
    program = compiled(C, *flags("glibc", C))
    check([program], "8", tmp_path / "account", {"GLIBC_TUNABLES": tunables})


@pytest.mark.parametrize("source", [C, CPP])
@pytest.mark.parametrize("library", LIBRARIES if IS_LONG else (), ids=str)
@pytest.mark.may_skip("not every distribution has the packages")
def test_libraries_of_other_releases(
    library: Library, source: str, compiled: Compiler, tmp_path: Path
) -> None:
    if library.name == "musl" and source == CPP:
        pytest.skip("musl has no C++ library here")
    try:
        words = loader(library)
        interface = [] if library.name == "musl" else oldest_interface()
    except UnavailableError as error:
        pytest.skip(f"{library}: {error}")
    compiler = "musl-gcc" if library.name == "musl" else ""
    program = compiled(source, *flags(str(library), source), *interface, compiler=compiler)
    check([*words, program], "8", tmp_path / "account")
