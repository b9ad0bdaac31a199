"""`leaktrace heap --holders`: what is said to hold the blocks of a group is what holds them, by the
program's source and by the symbols that nm(1) finds in it."""

from __future__ import annotations

import json
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.compiling import Compiler
from harness.target import Target
from harness.tracer import Tracer, run_leaktrace

pytestmark = [
    pytest.mark.usefixtures("require_root"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="registers are known on x86-64 only"),
]

Object = dict[str, Any]
OPTIONS = ("--holders", "-f", "json", "-T", "100000", "--max-pause-ms", "20000")
SESSIONS, TITLES, BUFFER_BYTES = 5000, 200, 504


@pytest.fixture(params=["dynamic", "stripped", "static"])
def program(request: pytest.FixtureRequest, compiled: Compiler, tmp_path: Path) -> Path:
    """Stripped: its symbols are in a file beside it."""
    options = ["-static"] if request.param == "static" else []
    path = tmp_path / "program"
    shutil.copy(compiled("heap_holders.cpp", "-pthread", *options), path)
    if request.param == "stripped":
        debug = path.with_suffix(".debug")
        subprocess.run(["objcopy", "--only-keep-debug", path, debug], check=True)
        subprocess.run(["objcopy", "--strip-all", f"--add-gnu-debuglink={debug}", path], check=True)
    return path


@pytest.fixture
def target(program: Path) -> Iterator[Target]:
    with Target([program]) as target:
        target.await_ready()
        target.do("all")
        yield target


def heap_of(*target: str) -> Object:
    outcome = run_leaktrace("heap", *target, *OPTIONS)
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    report: Object = json.loads(outcome.stdout)
    assert report["problems"] == []
    return report


def group_of(report: Object, kind: str, size: int | str) -> Object:
    """The only group of a kind, of blocks of that size or name."""
    (found,) = [
        one
        for one in report["heap"]["groups"]
        if one["kind"] == kind and (size in (one["least_bytes"], one["name"]))
    ]
    group: Object = found
    return group


def only_path(group: Object, count: int) -> list[Object]:
    """The way to all blocks of a group that are not lost."""
    (way,) = group["holders"]
    assert (way["count"], way["of_count"]) == (count, count)
    assert way["bytes"] == count * group["least_bytes"]
    path: list[Object] = way["path"]
    return path


def address_of(name: str, program: Path) -> int:
    """By nm(1), of the program or its debug file."""
    debug = program.with_suffix(".debug")
    listed = subprocess.run(
        ["nm", "-C", debug if debug.exists() else program],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    (address,) = re.findall(rf"^([0-9a-f]+) [bBdD] {re.escape(name)}$", listed, re.MULTILINE)
    return int(address, 16)


def compare(report: Object, program: Path, tid: int, *, names_threads: bool) -> None:
    sessions = group_of(report, "class", "shop::Session")
    root, own = only_path(sessions, SESSIONS)
    assert (root["kind"], root["name"], root["module"]) == (
        "variable",
        "shop::sessions",
        str(program),
    )
    assert int(root["module_offset"], 16) == address_of("shop::sessions", program)
    assert (root["offset"], root["last_offset"]) == (0, 0)
    assert (own["kind"], own["group"], own["name"]) == ("group", "class", "shop::Session")
    assert (own["repeats"], own["offset"], own["last_offset"]) == (True, 8, 8)
    assert own["least_bytes"] == own["most_bytes"] == sessions["least_bytes"]

    buffers = group_of(report, "zero", BUFFER_BYTES)
    assert buffers["count"] == SESSIONS + 100
    assert buffers["lost"]["definite_count"] == 100
    path = only_path(buffers, SESSIONS)
    assert [step["name"] for step in path] == ["shop::sessions", "shop::Session", None]
    assert (path[1]["repeats"], path[1]["offset"], path[1]["last_offset"]) == (True, 16, 16)
    assert not path[2]["repeats"]

    (titles,) = [
        one
        for one in report["heap"]["groups"]
        if (one["kind"], one["name"]) == ("text", "title of a page")
    ]
    root, own = only_path(titles, TITLES)
    assert (root["kind"], root["name"]) == ("variable", "titles")
    assert (root["offset"], root["last_offset"]) == (0, (TITLES - 1) * 8)
    assert own["group"] == "text"

    # Sizes that hold little are of one group.
    others = group_of(report, "zero", 1064)
    assert (others["count"], others["most_bytes"]) == (24 + 2 + 8, 1192)
    ways = others["holders"]
    assert [(one["count"], one["of_count"], one["bytes"]) for one in ways] == [
        (24, 34, 24 * 1064),
        (8, 34, 8 * 1192),
        (2, 34, 2 * 1128),
    ]
    expected = [("stack", "hold_in_thread"), ("tls", "local_holder"), ("register", None)]
    for way, (kind, name) in zip(ways, expected, strict=True):
        root, own = way["path"]
        assert (root["kind"], root["name"], root["thread"]) == (kind, name, tid)
        assert root["thread_name"] == (program.name[:15] if names_threads else None)
        assert (own["kind"], own["repeats"]) == ("group", False)
    tls = ways[1]["path"][0]
    assert (tls["offset"], tls["last_offset"]) == (0, 7 * 8)


def thread_of(target: Target) -> int:
    (tid,) = [int(line.split()[1]) for line in target.seen if line.startswith("thread ")]
    return tid


def test_who_holds_the_groups(target: Target, program: Path) -> None:
    compare(heap_of("-p", str(target.pid)), program, thread_of(target), names_threads=True)


def test_a_core_file_says_the_same(target: Target, program: Path, tmp_path: Path) -> None:
    subprocess.run(
        ["gcore", "-o", tmp_path / "core", str(target.pid)], check=True, capture_output=True
    )
    core = tmp_path / f"core.{target.pid}"
    report = heap_of("--core", str(core))
    compare(report, program, thread_of(target), names_threads=False)
    assert not [one for one in report["notes"] if "names" in one]

    # Of a program that is gone, the same ways without names.
    program.rename(program.with_suffix(".away"))
    without = heap_of("--core", str(core))
    (note,) = without["notes"]
    assert program.name in note
    buffers = group_of(without, "zero", BUFFER_BYTES)
    root, sessions, _ = only_path(buffers, SESSIONS)
    assert (root["kind"], root["module"]) == ("data", str(program))
    assert "module_offset" not in root
    assert root["name"] in (None, ".bss")
    assert (sessions["repeats"], sessions["offset"]) == (True, 16)


def test_a_group_that_grows(compiled: Compiler) -> None:
    with Target([compiled("heap_holders.cpp", "-pthread")]) as target:
        target.await_ready()
        target.do("all")
        with Tracer("heap", "-p", str(target.pid), *OPTIONS, "0.5", "1") as tracer:
            tracer.stdout.next()
            target.do("grow 123")
            outcome = tracer.finish()
    assert outcome.exit_code == 0
    first = json.loads(outcome.stdout.splitlines()[-1])["heap"]["groups"][0]
    assert (first["least_bytes"], first["since_first"]["count"]) == (BUFFER_BYTES, 123)
    path = only_path(first, SESSIONS + 123)
    assert [step["name"] for step in path] == ["shop::sessions", "shop::Session", None]


def test_without_the_option_nothing_is_said(compiled: Compiler) -> None:
    with Target([compiled("heap_holders.cpp", "-pthread")]) as target:
        target.await_ready()
        target.do("all")
        words = [one for one in OPTIONS if one != "--holders"]
        outcome = run_leaktrace("heap", "-p", str(target.pid), *words)
        text = run_leaktrace("heap", "-p", str(target.pid), "--holders")
    assert outcome.exit_code == text.exit_code == 0
    groups = json.loads(outcome.stdout)["heap"]["groups"]
    assert groups
    assert not any("holders" in one for one in groups)
    shown = " ".join(text.stdout.split())
    held = r"held by shop::sessions \[heap_holders\S*\] → list or tree of"
    for what in (r"its blocks \+0x8", r"shop::Session \+0x10"):
        assert re.search(f"{held} {what}: 5,000 of 5,000", shown), text.stdout
