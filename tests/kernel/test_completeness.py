"""Reports say what the figures leave out: allocators that aren't hooked, releases of blocks whose
allocation was not seen, memory that grows without the hooked functions. Ordinary programs get no
such remark."""

from __future__ import annotations

import ctypes.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness.compiling import Compiler, prefixed_allocator
from harness.length import chosen, crossed
from harness.reports import Report, Total
from harness.target import Target
from harness.tracer import NEVER, ONE_REPORT, Tracer, run_leaktrace, trace_work
from harness.wording import names

pytestmark = pytest.mark.usefixtures("require_bpf")

MIB = 1 << 20
LIBRARIES = ["", "jemalloc", "tcmalloc_minimal", "mimalloc"]
# Ordinary programs: source and flags.
PROGRAMS = [
    ("functions.c",),
    ("own_allocator.c",),
    ("operators.cpp", "-std=c++17"),
    ("threads.c",),
    ("allocator.c", "-static"),
    ("hammer.c",),
]
OF_COMPLETENESS = {"unhooked_allocator", "unseen_allocations", "untracked_memory"}


def remarks(report: Report) -> dict[str, dict[str, Any]]:
    """By kind."""
    return {remark["kind"]: remark for remark in report.raw["remarks"]}


def kinds(report: Report) -> set[str]:
    return set(remarks(report))


def incomplete(report: Report) -> set[str]:
    return kinds(report) & OF_COMPLETENESS


# --- allocators with other names -----------------------------------------------------------


@pytest.mark.parametrize("linking", ["shared", "static"])
def test_an_allocator_with_other_names_is_named(linking: str, compiled: Compiler) -> None:
    """2,000 blocks of 1,000 bytes, none of them by malloc."""
    report = trace_work([prefixed_allocator(compiled, linking)]).report
    assert report.outstanding == Total()
    assert report.losses == {}
    remark = remarks(report)["unhooked_allocator"]
    assert names(remark["text"], "nedmalloc")
    assert names(remark["hint"], "--faults")


def test_what_the_hint_says_works(compiled: Compiler) -> None:
    program = prefixed_allocator(compiled, "static")
    faults = trace_work([program], "--faults").report
    assert faults.under("scenario_prefixed").bytes >= 2_000_000
    assert kinds(faults) == set()


def test_a_command_with_such_an_allocator(compiled: Compiler) -> None:
    """It is known before the command runs, and reported at its end."""
    program = prefixed_allocator(compiled, "shared")
    outcome = run_leaktrace(*ONE_REPORT, "-c", str(program), NEVER, stdin="go\n\n")
    assert outcome.exit_code == 0, outcome.stderr
    report = Report(outcome.stdout.splitlines()[-1])  # the target writes there, too
    assert "unhooked_allocator" in kinds(report)


def test_a_library_loaded_later(compiled: Compiler) -> None:
    library = compiled("prefixed_allocator.c", "-DLIBRARY", "-DPLUGIN", "-shared", "-fPIC")
    with Target([compiled("plugin_host.c"), library]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), *ONE_REPORT, NEVER) as tracer:
            tracer.await_armed()
            target.do()
            (report,) = tracer.stop().reports
    assert library.name in remarks(report)["unhooked_allocator"]["text"]


def test_text_shows_remarks_next_to_the_losses(compiled: Compiler) -> None:
    with Target([prefixed_allocator(compiled, "static")]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), NEVER) as tracer:
            tracer.await_armed()
            target.do()
            lines = tracer.stop().stdout.splitlines()
    (at,) = [index for index, line in enumerate(lines) if line.startswith("incomplete: ")]
    (lost,) = [index for index, line in enumerate(lines) if "lost: nothing" in line]
    assert at < lost


@pytest.mark.may_skip("not every machine has every allocator")
def test_functions_of_a_hooked_library_that_are_not_hooked(compiled: Compiler) -> None:
    """Those of libmimalloc that copy strings have no size among their arguments."""
    if ctypes.util.find_library("mimalloc") is None:
        pytest.skip("libmimalloc is not installed")
    report = trace_work(
        [compiled("mimalloc_calls.c", "-Wl,--no-as-needed", "-l:libmimalloc.so.2")]
    ).report
    assert report.under("scenario_hooked") == Total(100 * (100 + 200 + 300), 300)
    assert report.losses == {}
    assert report.under("scenario_unhooked").count < 100
    text = remarks(report)["unhooked_allocator"]["text"]
    assert names(text, "mi_strdup", "libmimalloc")
    assert re.search(r"\bmi_(malloc|zalloc|malloc_aligned)\b", text) is None


# --- releases without an allocation ------------------------------------------------------------


def test_releases_of_blocks_whose_allocation_was_not_seen(compiled: Compiler) -> None:
    """Blocks that glibc's free releases and its malloc never returned: of 500 at one address, only
    the first can be from before the attach."""
    report = trace_work([compiled("foreign_blocks.c"), "foreign", "500"]).report
    assert report.losses == {}
    assert names(remarks(report)["unseen_allocations"]["text"], 499, "blocks")


def trace_command(directory: Path, *argv: str | Path, env: dict[str, str] | None = None) -> Report:
    """The report on a command that has done its work and waits."""
    output = directory / "reports"
    arguments = (*ONE_REPORT, "--output", output, NEVER, "--", *argv)
    with Tracer(*arguments, env=env) as tracer:
        tracer.await_armed()
        tracer.stdout.until(lambda line: line == "ready")
        assert tracer.process.stdin is not None
        tracer.process.stdin.write(b"go\n")
        tracer.process.stdin.flush()
        tracer.stdout.until(lambda line: line == "done")
        outcome = tracer.stop()
    assert outcome.exit_code == 0, outcome.stderr
    (line,) = output.read_text().splitlines()
    return Report(line)


def test_in_a_command_the_first_one_counts_too(compiled: Compiler, tmp_path: Path) -> None:
    report = trace_command(tmp_path, compiled("foreign_blocks.c"), "foreign", "500")
    assert names(remarks(report)["unseen_allocations"]["text"], 500, "blocks")


@pytest.mark.parametrize(("library", "work"), crossed(LIBRARIES, ["plain", "threads"]))
@pytest.mark.may_skip("not every machine has every allocator")
def test_releases_that_prove_nothing(
    library: str, work: str, compiled: Compiler, tmp_path: Path
) -> None:
    """Of 1,000 blocks from before the attach; of what the C library keeps for each thread, which
    it frees itself; of one block by two functions, the second of which the first calls."""
    name = ctypes.util.find_library(library) if library else ""
    if name is None:
        pytest.skip(f"lib{library} is not installed")
    program = compiled("foreign_blocks.c")
    report = trace_work([program, work, "300"], target_env={"LD_PRELOAD": name}).report
    assert incomplete(report) == set()
    report = trace_command(tmp_path, program, work, "300", env={"LD_PRELOAD": name})
    assert incomplete(report) == set()


def test_a_wrapper_whose_free_jumps_to_free(compiled: Compiler) -> None:
    wrapper = compiled("interposer.c", "-shared", "-fPIC", "-foptimize-sibling-calls")
    program = compiled("allocator.c")
    report = trace_work([program], target_env={"LD_PRELOAD": str(wrapper)}).report
    assert incomplete(report) == set()


# --- resident and outstanding memory -------------------------------------------------------


def resident(compiled: Compiler, directory: Path, *commands: str) -> Report:
    def drive(target: Target) -> tuple[int, ...]:
        for command in commands:
            target.do(command)
        return ()

    return trace_work([compiled("resident.c"), directory], drive=drive).report


@pytest.mark.parametrize(
    ("command", "kind", "in_words"),
    [
        ("own 64", "anonymous_bytes", "anonymous"),
        ("shared 64", "shared_bytes", "shared"),
    ],
)
def test_memory_that_grows_past_what_is_hooked(
    command: str, kind: str, in_words: str, compiled: Compiler, tmp_path: Path
) -> None:
    report = resident(compiled, tmp_path, command)
    assert report.outstanding == Total()
    grown = report.raw["resident"]["kinds_since_attach"]
    assert 64 * MIB <= grown[kind] < 66 * MIB
    assert report.raw["resident"]["since_attach_bytes"] == sum(grown.values())
    remark = remarks(report)["untracked_memory"]
    assert names(remark["text"], in_words)
    assert names(remark["hint"], "--faults")


def test_mapped_files_that_grow(compiled: Compiler) -> None:
    """--faults leaves them out, so it isn't suggested. (Not in /tmp: tmpfs is shared memory.)"""
    directory = Path("/var/tmp")
    try:
        report = resident(compiled, directory, "file 64")
    finally:
        (directory / "mapped").unlink(missing_ok=True)
    grown = report.raw["resident"]["kinds_since_attach"]
    if grown["file_bytes"] < 64 * MIB:
        pytest.skip(f"{directory} is not a separate file system")
    remark = remarks(report)["untracked_memory"]
    assert names(remark["text"], "files")
    assert names(remark["hint"], "pmap")
    assert not names(remark["hint"], "--faults")


def test_memory_that_is_tracked_is_no_remark(compiled: Compiler, tmp_path: Path) -> None:
    report = resident(compiled, tmp_path, "keep 64")
    assert report.outstanding == Total(64 * MIB, 64 * MIB // 2048)
    assert kinds(report) == set()


def test_little_memory_is_no_remark(compiled: Compiler, tmp_path: Path) -> None:
    assert kinds(resident(compiled, tmp_path, "own 8", "shared 4", "idle 8")) == set()


def test_memory_that_was_freed_between_reports(compiled: Compiler, tmp_path: Path) -> None:
    """No report saw it outstanding: it may have come from elsewhere."""
    report = resident(compiled, tmp_path, "keep 64", "free")
    assert report.outstanding == Total(2048, 1)
    assert report.raw["resident"]["since_attach_bytes"] >= 64 * MIB
    assert kinds(report) == {"kept_or_untracked"}


def test_memory_that_the_allocator_keeps(compiled: Compiler, tmp_path: Path) -> None:
    with Target([compiled("resident.c"), tmp_path]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), *ONE_REPORT, "0.3") as tracer:
            tracer.await_armed()
            target.do("keep 64")
            while tracer.next_report().outstanding.bytes < 64 * MIB:
                pass
            target.do("free")
            report = tracer.stop().reports[-1]
    assert report.outstanding == Total(2048, 1)
    assert kinds(report) == {"kept_by_allocator"}


def test_memory_that_is_not_touched(compiled: Compiler, tmp_path: Path) -> None:
    report = resident(compiled, tmp_path, "idle 64")
    assert report.outstanding == Total(64 * MIB, 1)
    assert report.raw["resident"]["since_attach_bytes"] < 4 * MIB
    assert kinds(report) == {"not_resident"}


@pytest.mark.parametrize(
    ("option", "expected"), [(("-z", "4096"), set()), (("-O", "c"), {"untracked_memory"})]
)
def test_partial_recording_is_hardly_compared(
    option: tuple[str, ...], expected: set[str], compiled: Compiler, tmp_path: Path
) -> None:
    """Where an object was chosen, the remark only says that memory also comes from elsewhere."""
    with Target([compiled("resident.c"), tmp_path]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), *ONE_REPORT, *option, NEVER) as tracer:
            tracer.await_armed()
            target.do("own 64")
            (report,) = tracer.stop().reports
    assert kinds(report) == expected
    assert all(names(remark["hint"], "-O") for remark in report.raw["remarks"])


def test_the_first_report_has_the_change_since_the_attach(compiled: Compiler) -> None:
    with Target([compiled("resident.c")]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), NEVER) as tracer:
            tracer.await_armed()
            target.do("own 64")
            outcome = tracer.stop()
    (line,) = [line for line in outcome.stdout.splitlines() if "RSS" in line and "MiB (+" in line]
    assert names(line, "since", "attach")
    assert 64 <= float(line.partition("(+")[2].partition(" MiB")[0]) < 66


def test_an_exec_starts_again_from_zero(compiled: Compiler, tmp_path: Path) -> None:
    """Memory of the program before it doesn't count for the new one."""
    with Target([compiled("commands.c")]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), *ONE_REPORT, NEVER) as tracer:
            tracer.await_armed()
            target.send(f"exec {compiled('resident.c')}")
            target.await_ready()
            target.do("keep 64")
            (report,) = tracer.stop().reports
    assert report.raw["resident"]["since_attach_bytes"] == report.raw["resident"]["bytes"]
    assert kinds(report) <= {"not_resident"}


# --- ordinary programs -------------------------------------------------------------------------

_PYTHON = """
import threading
kept = [str(i) * 10 for i in range(100_000)]
def work():
    return [str(i) * 20 for i in range(1000)]
for _ in range(50):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
kept.clear()
input()
"""
_PERL = 'my @kept = map { "a$_" x 10 } 1 .. 100_000; @kept = (); <STDIN>'


@pytest.mark.parametrize(
    ("program", "arguments"),
    chosen(
        [
            ("python3", ("-c", _PYTHON)),
            ("redis-server", ("--port", "0", "--save", "", "--unixsocket", "{}/socket")),
            ("gcc", ("-x", "c", "-c", "-o", "{}/out", str(Compiler.source("functions.c")))),
        ],
        [("perl", ("-e", _PERL))],
    ),
)
@pytest.mark.may_skip("not every machine has them")
def test_ordinary_programs_get_no_remark(
    program: str, arguments: tuple[str, ...], tmp_path: Path, require_tool: Callable[[str], str]
) -> None:
    words = [word.replace("{}", str(tmp_path)) for word in arguments]
    with Tracer(
        *ONE_REPORT,
        "--output",
        tmp_path / "reports",
        "0.5",
        "4",
        "--",
        require_tool(program),
        *words,
    ) as tracer:
        outcome = tracer.finish()
    assert outcome.exit_code == 0, outcome.stderr
    lines = (tmp_path / "reports").read_text().splitlines()
    assert lines
    assert [incomplete(Report(line)) for line in lines] == [set()] * len(lines)


@pytest.mark.parametrize(("library", "program"), crossed(LIBRARIES, PROGRAMS))
@pytest.mark.may_skip("not every machine has every allocator")
def test_hooked_functions_get_no_remark(
    library: str, program: tuple[str, ...], compiled: Compiler
) -> None:
    name = ctypes.util.find_library(library) if library else ""
    if name is None:
        pytest.skip(f"lib{library} is not installed")
    report = trace_work([compiled(*program)], target_env={"LD_PRELOAD": name}).report
    assert incomplete(report) == set()
