"""Allocators with names of their own are hooked together with the C library: mimalloc, tcmalloc,
jemalloc's own functions and jemalloc with a prefix, rpmalloc, snmalloc, oneTBB's, dlmalloc."""

from __future__ import annotations

import ctypes.util
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.accounts import differences, recorded
from harness.compiling import Compiler, prefixed_allocator
from harness.reports import Report, Total
from harness.target import Target
from harness.tracer import NEVER, ONE_REPORT, Tracer, run_leaktrace, trace_work

pytestmark = pytest.mark.usefixtures("require_bpf")

CALLS = 3000  # of each function
RANDOM = "own_names_by_chance.c"
ARCHIVE = "libjemalloc.a"
JEMALLOC = "-DJEMALLOC"  # its functions are jemalloc's, with a prefix


def check(program: Path, threads: int, directory: Path) -> None:
    account = directory / "account"
    ours, theirs = recorded([program, account, str(CALLS), str(threads)], account)
    assert len(theirs) > CALLS
    assert differences(ours, theirs) == []
    assert len(ours) == len(theirs)


@pytest.mark.parametrize("threads", [1, 8])
@pytest.mark.parametrize(
    ("name", "library"),
    [("MIMALLOC", "mimalloc"), ("JEMALLOC", "jemalloc"), ("TCMALLOC", "tcmalloc_minimal")],
)
def test_functions_of_a_library_that_replaces_malloc(
    name: str, library: str, threads: int, compiled: Compiler, tmp_path: Path
) -> None:
    file = ctypes.util.find_library(library)
    if file is None:
        pytest.skip(f"lib{library} is not installed")
    check(compiled(RANDOM, f"-D{name}", "-Wl,--no-as-needed", f"-l:{file}"), threads, tmp_path)


@pytest.mark.parametrize("threads", [1, 8])
@pytest.mark.parametrize("linking", ["shared", "static"])
def test_allocators_next_to_the_c_library(
    linking: str, threads: int, compiled: Compiler, tmp_path: Path
) -> None:
    """Those of which there is no package, with an allocator behind their names that is simple."""
    if linking == "static":
        program = compiled(RANDOM, "-DOTHERS", "-DWITHIN", "-static")
    else:
        library = compiled("named_allocators.c", "-shared", "-fPIC")
        program = compiled(RANDOM, "-DOTHERS", "-Wl,--no-as-needed", str(library))
    check(program, threads, tmp_path)


@pytest.fixture
def renamed_jemalloc(tmp_path: Path, require_tool: Callable[[str], str]) -> Path:
    """The system's jemalloc with a prefix, as Rust programs have it."""
    found = subprocess.run(
        [require_tool("gcc"), f"-print-file-name={ARCHIVE}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    if found == ARCHIVE:
        pytest.skip("libjemalloc-dev is not installed")
    for tool in ("ar", "ld", "nm", "objcopy"):
        require_tool(tool)
    whole, renamed, names = tmp_path / "whole.o", tmp_path / "renamed.o", tmp_path / "names"
    parts = tmp_path / "parts"
    parts.mkdir()
    subprocess.run(["ar", "x", found], cwd=parts, check=True)
    # The operators of C++ have no prefix, and would replace those of libstdc++.
    objects = [path for path in parts.glob("*.o") if path.name != "jemalloc_cpp.o"]
    subprocess.run(["ld", "-r", "-o", whole, *objects], check=True)
    listing = subprocess.run(
        ["nm", "-g", "--defined-only", whole], capture_output=True, text=True, check=True
    ).stdout
    defined = [line.split()[-1] for line in listing.splitlines()]
    public = [name for name in defined if not name.startswith("je_")]
    names.write_text("".join(f"{name} _rjem_{name}\n" for name in public))
    subprocess.run(["objcopy", f"--redefine-syms={names}", whole, renamed], check=True)
    return renamed


@pytest.mark.parametrize("threads", [1, 8])
def test_jemalloc_with_a_prefix(
    threads: int, renamed_jemalloc: Path, compiled: Compiler, tmp_path: Path
) -> None:
    flags = ["-DJEMALLOC", "-DPREFIX=_rjem_", "-no-pie", "-Wl,--no-as-needed"]
    program = compiled(RANDOM, *flags, str(renamed_jemalloc), "-lm", "-ldl")
    check(program, threads, tmp_path)


# --- a library with a prefix, however it comes to be loaded ------------------------------------


@pytest.mark.parametrize("linking", ["shared", "static"])
def test_a_prefix_is_found(linking: str, compiled: Compiler) -> None:
    """2,000 blocks of 1,000 bytes, none of them by malloc."""
    report = trace_work([prefixed_allocator(compiled, linking, JEMALLOC)]).report
    assert report.under("scenario_prefixed") == Total(2_000_000, 2000)
    assert report.outstanding == Total(2_000_000, 2000)
    assert report.losses == {}
    assert report.raw["remarks"] == []


def test_of_a_command(compiled: Compiler) -> None:
    program = prefixed_allocator(compiled, "shared", JEMALLOC)
    outcome = run_leaktrace(*ONE_REPORT, "-c", str(program), NEVER, stdin="go\n\n")
    assert outcome.exit_code == 0, outcome.stderr
    report = Report(outcome.stdout.splitlines()[-1])  # the target writes there, too
    assert report.outstanding == Total(2_000_000, 2000)


def test_of_a_library_loaded_later(compiled: Compiler) -> None:
    library = compiled(
        "prefixed_allocator.c", "-DJEMALLOC", "-DLIBRARY", "-DPLUGIN", "-shared", "-fPIC"
    )
    with Target([compiled("plugin_host.c"), library]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), *ONE_REPORT, NEVER) as tracer:
            tracer.await_armed()
            target.do()
            (report,) = tracer.stop().reports
    assert report.raw["remarks"] == []


@pytest.mark.parametrize("linking", [(), ("-static",)], ids=["shared", "static"])
def test_what_calls_malloc_is_counted_once(linking: tuple[str, ...], compiled: Compiler) -> None:
    """And blocks that one allocator returned may be released by the other."""
    report = trace_work([compiled("names_over_malloc.c", *linking)]).report
    assert report.under("scenario_own") == Total(100 * 100, 100)
    assert report.under("scenario_c") == Total(100 * 200, 100)
    assert report.under("scenario_resized") == Total(100 * (300 + 400 + 50), 300)
    assert report.under("scenario_released") == Total()
    assert report.losses == {}
    assert report.raw["remarks"] == []
