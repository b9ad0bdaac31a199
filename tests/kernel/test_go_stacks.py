"""Stacks of C code that Go called go on in the goroutine, as Go itself sees it."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from harness.compiling import PROGRAMS
from harness.go_programs import build_go_program
from harness.reports import Report, Site, Total, total
from harness.tracer import NEVER, ONE_REPORT, Traced, run_leaktrace, trace_work
from harness.wording import lines_naming

from leaktrace.abi.process import MAX_FRAMES

pytestmark = pytest.mark.usefixtures("require_bpf")

BUILDS = {
    "with symbols": (),
    "stripped": ("-ldflags=-s -w",),
    "position-independent": ("-buildmode=pie",),
    "position-independent, stripped": ("-buildmode=pie", "-ldflags=-s -w"),
}
# Other versions of Go than the one in PATH: paths of `go`, separated by colons.
OTHERS = [go for go in os.environ.get("LEAKTRACE_TEST_GO", "").split(":") if go]
CALLBACK = "runtime.cgocallback"
# The code in between, which Go's own account leaves out.
BETWEEN = ("runtime.asmcgocall", "runtime.cgocall", "main._Cfunc_keep_some")


def by_path(file: Path) -> dict[tuple[str, ...], Total]:
    """What Go says: the functions from the one that calls C on."""
    found = {}
    for line in file.read_text().splitlines():
        bytes_, count, path = line.split(maxsplit=2)
        found[tuple(plain(name) for name in path.split("<"))] = Total(int(bytes_), int(count))
    return found


def plain(name: str | None) -> str:
    """A name without what symbols of assembly have at the end, and without type arguments."""
    return (name or "").removesuffix(".abi0").split("[")[0]


def own_sites(report: Report) -> list[Site]:
    """Those of the C function that keeps memory. (On the way to it the runtime may map memory, or
    start a thread.)"""
    return [site for site in report.sites if "<".join(BETWEEN) in "<".join(names(site))]


def names(site: Site) -> tuple[str, ...]:
    return tuple(plain(name) for name in site.functions)


def go_names(site: Site) -> tuple[str, ...]:
    """The functions of Go on a stack, as Go lists them: without those by which Go calls C, and
    without C between two pieces of Go."""
    found = names(site)
    at = found.index(BETWEEN[0])
    assert found[at : at + 3] == BETWEEN
    kept = list(found[at + 3 :])
    while "crosscall2" in kept:
        first, last = kept.index("crosscall2"), kept.index("runtime.asmcgocall")
        c_code = [name for name in kept[first:last] if not name.startswith("_cgo")]
        assert [name for name in c_code if name] in (
            ["crosscall2", "keepInCallback", "call_back"],
            ["crosscall2", "keepInCallback"],  # stripped: the rest has no name
        )
        kept[first : last + 1] = ["runtime.systemstack_switch"]
    return without_wrappers(tuple(kept))


def without_wrappers(path: tuple[str, ...]) -> tuple[str, ...]:
    """Go leaves out the code that calls a function of assembly in its calling convention, and has
    the same name. The program's own functions may call themselves."""
    return tuple(
        name
        for name, caller in pairwise((*path, ""))
        if name != caller or not name.startswith("runtime.")
    )


def check(traced: Traced, file: Path) -> None:
    truth, sites = by_path(file), own_sites(traced.report)
    assert len(truth) == 15
    seen = {}
    for site in sites:
        path = go_names(site)
        assert path not in seen, "two sites of one path"
        seen[path] = site
        if len(site.frames) >= MAX_FRAMES:
            assert site.raw["stack_end"] == "truncated"
        else:
            assert path[-1] in ("runtime.goexit", "runtime.rt0_go")
            assert site.raw["stack_end"] == "complete"
    expected = {whole[: MAX_FRAMES - 1 - len(BETWEEN)]: kept for whole, kept in truth.items()}
    assert {path: site.total for path, site in seen.items()} == expected
    assert sum(path.count(CALLBACK) == 3 for path in seen) == 2
    assert total(tuple(sites)) == Total(*traced.account)
    # Deep in the recursion the runtime may also map memory for Go's heap.
    assert set(traced.report.losses) == {"truncated_stacks"}


@pytest.fixture(scope="module")
def go_paths(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    folder = tmp_path_factory.mktemp("go")

    def build(*flags: str, go: str = "go") -> Path:
        output = folder / f"program{len(list(folder.iterdir()))}"
        env = {} if go == "go" else {"GOCACHE": str(folder.parent / "go-cache")}
        source = PROGRAMS / "go_paths.go"
        return build_go_program(output, *flags, source=source, go=go, env=env)

    return build


@pytest.mark.parametrize("flags", BUILDS.values(), ids=list(BUILDS))
def test_each_path_of_go_is_one_complete_site(
    flags: tuple[str, ...], go_paths: Callable[..., Path], tmp_path: Path
) -> None:
    file = tmp_path / "paths"
    check(trace_work([go_paths(*flags), file]), file)


@pytest.mark.may_skip("other versions of Go than the installed one are named by hand")
@pytest.mark.parametrize("go", OTHERS)
def test_other_versions_of_go(go: str, go_paths: Callable[..., Path], tmp_path: Path) -> None:
    for flags in BUILDS.values():
        file = tmp_path / "paths"
        check(trace_work([go_paths(*flags, go=go), file]), file)


def test_each_goroutine_alike_on_any_thread(
    tmp_path: Path,
) -> None:
    """Each depth of Go that calls C is one site, independently of the goroutine and of earlier
    contents of the thread's stack."""
    traced = trace_work([build_go_program(tmp_path / "program")])
    named = [s for s in traced.report.sites if "main._Cfunc_CString" in names(s)]
    kept = own_sites(traced.report)
    assert total((*named, *kept)) == Total(*traced.account)
    assert [site.total for site in named] == [Total(10 * 600, 600)]
    depths = [names(site).count("main.descend") for site in kept]
    assert sorted(depths) == [1, 2, 3, 4, 5, 6]
    assert {site.raw["stack_end"] for site in (*named, *kept)} == {"complete"}
    assert traced.report.losses == {}


def report_on_command(program: Path) -> Report:
    outcome = run_leaktrace(*ONE_REPORT, "-c", program, NEVER, stdin="\n\n")
    assert outcome.exit_code == 0
    (line,) = [line for line in outcome.stdout.splitlines() if line.startswith("{")]
    return Report(line)


def test_what_the_runtime_does_on_the_stack_of_a_thread(tmp_path: Path) -> None:
    """It maps memory for Go's heap, and makes threads: also then it is seen who asked."""
    program = build_go_program(tmp_path / "program", "-ldflags=-s -w")
    report = report_on_command(program)
    mapped = [site for site in report.sites if "runtime.callCgoMmap" in names(site)]
    made = [site for site in report.sites if "pthread_create" in names(site)]
    assert mapped
    assert made
    beyond = [site for site in (*mapped, *made) if "runtime.systemstack" in names(site)]
    assert beyond
    for site in beyond:
        asked = names(site)[names(site).index("runtime.systemstack") + 1 :]
        assert asked[-1] in ("runtime.goexit", "runtime.rt0_go", "runtime.mstart")
        assert site.raw["stack_end"] == "complete"


def test_without_type_information_of_the_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls by cgo are followed all the same. The thread's own stack is where others end."""
    monkeypatch.setenv("LEAKTRACE_WITHOUT", "thread_pointer")
    program = build_go_program(tmp_path / "program")
    report = report_on_command(program)
    assert {site.raw["stack_end"] for site in own_sites(report)} == {"complete"}
    ended = [site for site in report.sites if names(site)[-1] == "runtime.systemstack"]
    assert ended
    assert {site.raw["stack_end"] for site in ended} == {"go"}
    assert not [site for site in report.sites if "runtime.systemstack" in names(site)[:-1]]
    said = run_leaktrace("-c", program, "-o", "0", stdin="\n\n")
    assert lines_naming(said.stdout, "Go", "stack")
    assert "up to Go" in said.stdout


def test_without_tail_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stack of the goroutine isn't followed, and nothing else is broken."""
    monkeypatch.setenv("LEAKTRACE_WITHOUT", "tail_calls")
    traced = trace_work([build_go_program(tmp_path / "program")])
    ended = [site for site in traced.report.sites if names(site)[-1] == "runtime.asmcgocall"]
    assert {site.raw["stack_end"] for site in ended} == {"go"}
    assert total(tuple(s for s in ended if s.total.count >= 600)) == Total(*traced.account)
    assert traced.report.losses == {}


def test_page_faults_of_go_without_c(tmp_path: Path) -> None:
    """A stripped program: the rows and names are those of Go's own table, at any instruction."""
    program = build_go_program(
        tmp_path / "program",
        "-ldflags=-s -w",
        source=PROGRAMS / "go_pages.go",
        env={"CGO_ENABLED": "0"},
    )
    traced = trace_work([program], "--faults")
    kept = traced.report.sites_under("main.keepPages")
    for site in kept:
        at = names(site).index("main.keepPages")
        path = ("main.keepPages", "main.serve", "main.main.func1", "runtime.goexit")
        assert names(site)[at:] == path
        assert site.raw["stack_end"] == "complete"
    bytes_kept, _ = traced.account
    assert bytes_kept * 0.9 < total(kept).bytes < bytes_kept * 1.2
    assert set(traced.report.raw["stack_ends"]) <= {"complete", "go"}
    assert traced.report.losses == {}
