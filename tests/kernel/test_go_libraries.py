"""Go libraries in other programs: stacks from C to Go and back, of one library or two."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from harness.compiling import PROGRAMS, Compiler
from harness.go_programs import build_go_program
from harness.reports import Site, Total, total
from harness.target import Target
from harness.tracer import Traced, run_leaktrace, trace_work

pytestmark = pytest.mark.usefixtures("require_bpf")

Libraries = Callable[..., Path]
STRIPPED = "-ldflags=-s -w"


KEEP = ("main._Cfunc_keep_some", "main.keep")
CALL_BACK = ("main._Cfunc_call_back", "main.GoCallBack")
# What the host does with a library at each of two sizes, as go_host.c says: how much more than the
# size, how often, and the functions on the way there, without C of the library.
BY_HOST = {
    (0, 5): (*KEEP, "main.GoKeep", "host_works"),
    (1, 1): ("host_keeps", *CALL_BACK, "host_works"),
    (2, 1): (*KEEP, "main.GoKeep", "host_keeps_by_go", *CALL_BACK, "host_works"),
}
ELSEWHERE = (*KEEP, "main.keepInGoroutine", "main.GoKeepElsewhere.func1")
THREADS = {10001: "main", 20001: "on_thread"}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Libraries:
    """The library, once for each name: two files are two libraries."""
    folder = tmp_path_factory.mktemp("libraries")

    def build(name: str, *flags: str) -> Path:
        path = folder / f"{name}.so"
        if not path.exists():
            source = PROGRAMS / "go_library.go"
            build_go_program(path, "-buildmode=c-shared", *flags, source=source)
        return path

    return build


def plain(name: str | None) -> str:
    """A name without what symbols of assembly have at the end."""
    return (name or "").removesuffix(".abi0")


def key_functions(site: Site) -> tuple[str, ...]:
    """The functions that a programmer has written, in Go or in the host."""
    is_own = ("main.", "host_", "on_thread")
    names = [plain(name) for name in site.functions]
    return tuple(name for name in names if name == "main" or name.startswith(is_own))


def expected(count: int) -> Counter[tuple[int, int, tuple[str, ...]]]:
    """Bytes, blocks and functions of each site of so many libraries."""
    found: Counter[tuple[int, int, tuple[str, ...]]] = Counter()
    for size, thread in THREADS.items():
        for (more, times), path in BY_HOST.items():
            found[times * (size + more), times, (*path, thread)] += count
    # Both threads ask a goroutine for it, so it is one site.
    found[sum(THREADS) + 2 * 3, 2, ELSEWHERE] += count
    return found


def check(traced: Traced, count: int) -> None:
    wanted = expected(count)
    sizes = {size for size, _, _ in wanted}
    sites = [site for site in traced.report.sites if site.total.bytes in sizes]
    seen = Counter((site.total.bytes, site.total.count, key_functions(site)) for site in sites)
    assert seen == wanted
    assert {site.raw["stack_end"] for site in sites} == {"complete"}
    first = {plain(site.functions[-1]).lstrip("_") for site in sites}
    assert first - {"clone", "clone3"} == {"start", "runtime.goexit"}  # a thread, by the C library
    assert total(tuple(sites)) == Total(*traced.account)
    assert traced.report.losses == {}


@pytest.mark.parametrize("flags", [(), (STRIPPED,)], ids=["with symbols", "stripped"])
def test_stacks_of_one_library(
    flags: tuple[str, ...], library: Libraries, compiled: Compiler
) -> None:
    path = library(f"one{len(flags)}", *flags)
    check(trace_work([compiled("go_host.c", "-ldl"), path]), 1)


def test_stacks_through_two_libraries(library: Libraries, compiled: Compiler) -> None:
    """Each has a runtime of its own. Calls lead from one of them through the host to the other."""
    paths = library("one0"), library("two", STRIPPED)
    traced = trace_work([compiled("go_host.c", "-ldl"), *paths])
    # Back in the first one, its first callback isn't known any more.
    (crossing,) = [site for site in traced.report.sites if site.total == Total(50001, 1)]
    assert crossing.raw["stack_end"] == "go"
    inner = (*KEEP, "main.GoKeep", "host_keeps_by_go", *CALL_BACK, "host_crosses", *CALL_BACK)
    assert key_functions(crossing) == inner
    assert plain(crossing.functions[-1]) == "runtime.cgocallback"
    bytes_, blocks = traced.account
    check(replace(traced, account=(bytes_ - 50001, blocks - 1)), 2)


def look(pid: int) -> dict[str, Any]:
    """What `leaktrace go` reports."""
    outcome = run_leaktrace("go", "-p", str(pid), "-f", "json")
    assert outcome.exit_code == 0, outcome.stderr
    (line,) = outcome.stdout.splitlines()
    found: dict[str, Any] = json.loads(line)
    return found


def groups(report: dict[str, Any]) -> dict[str, int]:
    """How many goroutines began as which function."""
    return {one["started_as"]["function"]: one["count"] for one in report["goroutines"]}


@pytest.mark.parametrize("count", [1, 2])
def test_goroutines_of_libraries(count: int, library: Libraries, compiled: Compiler) -> None:
    """Those of one of them, and it is said of which, and what is missing."""
    paths = [library("one1", STRIPPED), library("two", STRIPPED)][:count]
    with Target([compiled("go_host.c", "-ldl"), *paths]) as target:
        target.await_ready()
        target.do()
        report = look(target.pid)
        traced = run_leaktrace("-p", str(target.pid), "-f", "json", "0.2", "1")
        assert target.end() == 0
    looked_at = next(i for i, path in enumerate(paths) if report["go"]["path"] == str(path))
    stuck = {"main.GoStick.func1": 10 * (looked_at + 1)}
    assert groups(report) == stuck
    assert report["goroutine_count"] == sum(stuck.values())
    said = " ".join(report["notes"])
    assert f"the Go code of {paths[looked_at]}" in said
    assert ("not looked at" in said) == (count == 2)
    assert (str(paths[1 - looked_at]) in said) if count == 2 else True
    (go,) = json.loads(traced.stdout.splitlines()[-1])["go"]
    assert go["goroutine_count"] == sum(stuck.values())
    assert go["notes"] == report["notes"]


PYTHON = """
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
library.GoKeep(30001, 7)
library.GoStick(13)
print("done", 7 * 30001, 7, flush=True)
sys.stdin.readline()
"""


def test_a_library_in_python(library: Libraries) -> None:
    looks: list[dict[str, Any]] = []

    def drive(target: Target) -> tuple[int, ...]:
        account = target.do()
        looks.append(look(target.pid))
        return account

    path = library("one1", STRIPPED)
    traced = trace_work(["/usr/bin/python3", "-c", PYTHON, path], drive=drive)
    (site,) = (one for one in traced.report.sites_under("main.keep"))
    assert site.total == Total(*traced.account)
    names = [plain(name) for name in site.functions]
    assert site.raw["stack_end"] == "complete"
    assert names[-1] == "_start"
    assert names.index("main.GoKeep") < names.index("GoKeep") < names.index("Py_BytesMain")
    assert groups(looks[0]) == {"main.GoStick.func1": 13}
    assert looks[0]["go"]["path"] == str(path)


@pytest.mark.parametrize("flags", [(), ("-buildmode=pie",)], ids=["at its address", "PIE"])
def test_a_plugin(flags: tuple[str, ...], tmp_path: Path) -> None:
    """It uses the runtime of its program. Its goroutines are counted, without their names."""
    plugin = tmp_path / "plugin.so"
    build_go_program(plugin, "-buildmode=plugin", source=PROGRAMS / "go_plugin.go")
    host = build_go_program(tmp_path / "host", *flags, source=PROGRAMS / "go_plugin_host.go")
    looks: list[dict[str, Any]] = []

    def drive(target: Target) -> tuple[int, ...]:
        account = target.do()
        looks.append(look(target.pid))
        return account

    traced = trace_work([host, plugin], drive=drive)
    (site,) = (one for one in traced.report.sites if one.total == Total(*traced.account))
    names = [plain(name).rpartition(".")[2] for name in site.functions]
    assert site.raw["stack_end"] == "complete"
    assert names[names.index("_Cfunc_keep_some") :] == [
        *("_Cfunc_keep_some", "keepOne", "Keep", "main", "main", "goexit"),
    ]
    (report,) = looks
    counts = sorted(one["count"] for one in report["goroutines"])
    assert counts == [1, 3, 7]
    (of_plugin,) = (one for one in report["goroutines"] if one["count"] == 7)
    assert of_plugin["started_as"] is None
    assert report["skipped"]["incomplete"] == 7
    assert str(plugin) in " ".join(report["notes"])
