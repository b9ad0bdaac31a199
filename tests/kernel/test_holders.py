"""--holders: what is said to hold the blocks is what holds them, by the program's source and by the
symbols that nm(1) finds in its files."""

from __future__ import annotations

import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from harness.compiling import Compiler
from harness.families import last_report
from harness.reports import Report
from harness.target import Target
from harness.tracer import NEVER, ONE_REPORT, REPOSITORY, Tracer, run_leaktrace

pytestmark = [
    pytest.mark.usefixtures("require_bpf"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="registers are known on x86-64 only"),
]

Path_ = list[dict[str, Any]]


def sizes_of_variables(file: Path) -> dict[str, int]:
    """The data of a file: names with sizes in bytes, by nm(1)."""
    listed = subprocess.run(
        ["nm", "-C", "-S", "--defined-only", file], capture_output=True, text=True, check=True
    ).stdout
    found = re.findall(r"^[0-9a-f]+ ([0-9a-f]+) [bBdD] (.*)$", listed, re.MULTILINE)
    return {name: int(size, 16) for size, name in found}


def paths_to(report: Report, function: str) -> list[tuple[int, int, Path_]]:
    """The ways to the blocks of the only site under a function: how many of how many, and how."""
    (site,) = report.sites_under(function)
    return [(one["count"], one["of_count"], one["path"]) for one in site.raw["holders"]]


def only_path(report: Report, function: str, count: int) -> Path_:
    """The way to all blocks of a site."""
    found_paths = paths_to(report, function)
    assert len(found_paths) == 1, found_paths
    ((found, of_count, path),) = found_paths
    assert (found, of_count) == (count, count)
    return path


def kinds(path: Path_) -> list[str]:
    return [step["kind"] for step in path]


def site_id(report: Report, function: str) -> str:
    (site,) = report.sites_under(function)
    return str(site.raw["id"])


@pytest.mark.parametrize("stop", [(), ("--stop", "--max-pause-ms", "10000")])
def test_who_holds_them(compiled: Compiler, stop: tuple[str, ...]) -> None:
    program = compiled("holders.c", "-ldl")
    plugin = compiled("holders_plugin.cpp", "-shared", "-fPIC")
    with Target([program, plugin]) as target:
        target.await_ready()
        options = ("--holders", *stop, "-T", "30", *ONE_REPORT)
        with Tracer("-p", str(target.pid), *options, NEVER) as tracer:
            tracer.await_armed()
            target.do()
            report = last_report(tracer)
        lines, status = target.run_out()
    assert status == 0
    assert (report.raw["reach"]["pause_ms"] is not None) == bool(stop)
    assert report.raw["reach"]["heap_is_known"] == bool(stop)
    said = dict(line.split() for line in lines if " " in line)
    tid, mapped = int(said["thread"]), int(said["mapped"])
    own, others = sizes_of_variables(program), sizes_of_variables(plugin)

    def variable(step: dict[str, Any], name: str, file: Path, size: int) -> None:
        assert (step["kind"], step["name"]) == ("variable", name)
        assert step["module"] == str(file)
        known = own if file == program else others
        assert known[name] == size
        assert 0 <= step["offset"] <= step["last_offset"] <= size - 8

    # A list: one step that repeats, with the offset of its links.
    path = only_path(report, "make_node", 5000)
    variable(path[0], "global_list", program, 8)
    assert kinds(path) == ["variable", "block"]
    assert (path[1]["repeats"], path[1]["offset"], path[1]["last_offset"]) == (True, 8, 8)
    assert path[1]["site"] == site_id(report, "make_node")

    # A hash table, its entries, and what they lead to.
    table = only_path(report, "make_table", 1)
    variable(table[0], "static_table", program, 8)
    entries = only_path(report, "make_entry", 1000)
    assert kinds(entries) == ["variable", "block", "block"]
    assert (entries[1]["offset"], entries[1]["last_offset"]) == (0, 255 * 8)
    assert (entries[2]["repeats"], entries[2]["offset"]) == (True, 0)
    path = only_path(report, "make_payload", 1000)
    assert kinds(path) == ["variable", "block", "block", "block"]
    assert [step["site"] for step in path[1:]] == [
        site_id(report, name) for name in ("make_table", "make_entry", "make_payload")
    ]
    assert (path[2]["offset"], path[2]["last_offset"]) == (16, 16)
    assert path[2]["name"] == "make_entry"
    assert not path[3]["repeats"]

    path = only_path(report, "make_of_array", 200)
    variable(path[0], "global_array", program, 200 * 8)
    assert (path[0]["offset"], path[0]["last_offset"]) == (0, 199 * 8)

    # Links that lead into the middle of the next block.
    path = only_path(report, "make_linked", 300)
    variable(path[0], "intrusive_list", program, 16)
    assert path[0]["to_middle"]
    assert path[1]["repeats"]

    # Containers that are older than the trace: one in malloc's heap, one that malloc has mapped.
    for function, name, count, last in (
        ("make_of_early", "early_block", 64, 63 * 8),
        ("make_of_table", "early_table", 40, 3900 * 8),
    ):
        path = only_path(report, function, count)
        variable(path[0], name, program, 8)
        assert kinds(path) == ["variable", "untracked", "block"]
        assert (path[1]["offset"], path[1]["last_offset"]) == (0, last)
        assert path[1]["name"] is None

    # Older objects of a C++ class, in a list.
    path = only_path(report, "make_of_registry", 3 * 16)
    variable(path[0], "plugin::registries", plugin, 8)
    assert kinds(path) == ["variable", "untracked", "block"]
    assert (path[1]["name"], path[1]["repeats"]) == ("plugin::Registry", True)
    assert (path[1]["offset"], path[1]["last_offset"]) == (16, 16 + 15 * 8)

    (step, _) = only_path(report, "make_of_mapped", 32)
    assert (step["kind"], step["name"]) == ("mapping", f"{mapped:#x}")
    assert (step["offset"], step["last_offset"]) == (0, 31 * 8)

    (step, _) = only_path(report, "make_of_stack", 24)
    assert (step["kind"], step["thread"], step["name"]) == ("stack", tid, "hold")
    assert step["thread_name"] == program.name[:15]

    (step, _) = only_path(report, "make_of_thread_local", 16)
    assert (step["kind"], step["thread"], step["name"]) == ("tls", tid, "thread_local_holder")
    assert (step["offset"], step["last_offset"]) == (0, 15 * 8)

    path = only_path(report, "make_of_cache", 50)
    variable(path[0], "plugin::cache", plugin, 50 * 8)
    # A std::map: its header is in the variable, its nodes are a tree.
    for function, steps in (("make_session", 3), ("make_buffer", 4)):
        path = only_path(report, function, 150)
        variable(path[0], "plugin::sessions", plugin, 48)
        assert len(path) == steps
        assert path[1]["repeats"]
        assert path[1]["name"] == "fill_plugin" or "plugin" in path[1]["name"]
    assert path[2]["site"] == site_id(report, "make_session")
    assert (path[2]["offset"], path[2]["last_offset"]) == (8, 8)


def test_holders_of_an_instant(compiled: Compiler) -> None:
    """A pointer that is in a vector register alone, and one that is never long at a place: without
    a stop the former is not seen, and the latter may be missed."""
    program = compiled("holders_of_instant.c", "-msse2")
    sizes = sizes_of_variables(program)
    with Target([program]) as target:
        target.await_ready()
        options = ("--holders", "--stop", "--max-pause-ms", "10000", "--older", "0", *ONE_REPORT)
        with Tracer("-p", str(target.pid), *options, "0.7", "4") as tracer:
            tracer.await_armed()
            target.do()
            outcome = tracer.finish()
        said = dict(line.split() for line in target.seen if " " in line)
    reports = [one for one in outcome.reports if one.sites_under("make_under_vector")]
    assert len(reports) >= 2
    for report in reports:
        assert report.raw["reach"]["problems"] == []
        assert report.raw["reach"]["heap_is_known"]
        assert report.raw["reach"]["lost"]["definite_count"] == 0

        (step, own) = only_path(report, "make_of_vector", 2)
        assert (step["kind"], step["thread"]) == ("register", int(said["vector"]))
        assert step["thread_name"] == program.name[:15]
        assert not own["repeats"]
        path = only_path(report, "make_under_vector", 2)
        assert (kinds(path), path[0]) == (["register", "block", "block"], step)
        assert path[1]["site"] == site_id(report, "make_of_vector")
        assert (path[1]["offset"], path[1]["last_offset"]) == (0, 0)

        (step, _) = only_path(report, "make_moving", 1)
        if step["kind"] == "variable":
            assert step["name"] == "moving_places"
            assert 0 <= step["offset"] == step["last_offset"] < sizes["moving_places"]
        else:
            assert (step["kind"], step["thread"]) == ("register", int(said["moving"]))

        # Its first block is newer than the records that were read before the stop.
        nodes = paths_to(report, "make_node")
        payloads = paths_to(report, "make_payload")
        for ((count, of_count, path),), steps in ((nodes, 2), (payloads, 3)):
            assert count == of_count >= 1000
            assert (path[0]["kind"], path[0]["name"]) == ("variable", "growing_list")
            assert (len(path), path[1]["repeats"], path[1]["site"]) == (
                steps,
                True,
                site_id(report, "make_node"),
            )


def test_a_stop_that_is_too_short_for_holders(compiled: Compiler) -> None:
    """They are found without a stop, and the report says why."""
    with Target([compiled("bench_lost.c"), "1000", "300"]) as target:
        target.await_ready()
        options = ("--holders", "--stop", "--max-pause-ms", "15", *ONE_REPORT, NEVER)
        with Tracer("-p", str(target.pid), *options) as tracer:
            tracer.await_armed()
            target.do()
            report = last_report(tracer)
    (problem,) = report.raw["reach"]["problems"]
    assert problem.endswith("15 ms were not enough (--max-pause-ms)")
    assert any(site.get("holders") for site in report.raw["sites"])


def test_a_command_as_it_exits(compiled: Compiler, tmp_path: Path) -> None:
    """All blocks have a record, and text is for people."""
    program = compiled("lost_objects.cpp")
    outcome = run_leaktrace("--holders", "--full-stacks", "-T", "30", "--", program)
    assert outcome.exit_code == 0, outcome.stderr
    text = " ".join(outcome.stdout.split())
    variables = sizes_of_variables(program)
    assert "(anonymous namespace)::kept_map" in variables
    held = r"held by \(anonymous namespace\)::kept_map \[[^]]*\] → block of scenario_kept_map"
    assert re.search(held + r" [0-9a-f]{6} \+0x10…0x20 → list or tree of its blocks", text), text


def test_the_example_of_the_readme(tmp_path: Path) -> None:
    """The list grows at its head, also while memory is read."""
    program = tmp_path / "lost"
    source = REPOSITORY / "examples/lost.c"
    subprocess.run(["gcc", "-O2", "-g", source, "-o", program], check=True)
    with Target([program]) as target:
        outcome = run_leaktrace("--holders", "-p", str(target.pid), "1", "4")
    assert outcome.exit_code == 0, outcome.stderr
    last = " ".join(outcome.stdout.rpartition("final report")[2].split())
    nodes = r"held by open_sessions \[lost\] → list or tree of its blocks: ([\d,]+) of \1 "
    buffers = r"held by open_sessions \[lost\] → list or tree of begin_session [0-9a-f]{6} \+0x8:"
    assert re.search(nodes, last), outcome.stdout
    assert re.search(buffers + r" ([\d,]+) of \1 ", last), outcome.stdout
    assert "still referenced" in last
