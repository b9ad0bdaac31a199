"""`leaktrace heap` on programs that say what is in their heap, and on their core files."""

from __future__ import annotations

import json
import os
import platform
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.compiling import Compiler
from harness.target import Target
from harness.tracer import REPOSITORY, Tracer, run_leaktrace

pytestmark = [
    pytest.mark.usefixtures("require_root"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="registers are known on x86-64 only"),
]

READ = 0  # number of the system call
Object = dict[str, Any]
GROUPS = {"GET": "text", "shop::Session": "class", "shop::Cached<int>": "class"}
ALL = ("-f", "json", "-T", "100000", "--max-pause-ms", "20000")


@pytest.fixture
def target(compiled: Compiler) -> Iterator[Target]:
    with Target([compiled("heap_blocks.cpp")]) as target:
        yield target.await_ready()


def do(target: Target, command: str) -> None:
    """Let it work until it waits for the next command: what its calls have left on the stack before
    is not in use any more."""
    target.do(command)
    while not Path(f"/proc/{target.pid}/syscall").read_text().startswith(f"{READ} "):
        pass


def heap_of(*target: str) -> Object:
    """The report of a single look, with all groups."""
    outcome = run_leaktrace("heap", *target, *ALL)
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    report: Object = json.loads(outcome.stdout)
    assert report["problems"] == []
    return report


def numbers(target: Target) -> dict[str, tuple[int, ...]]:
    """What the program said last, by name: of groups how many blocks, of which size, how many of
    them are lost."""
    lines = [line.removeprefix("group ").split() for line in target.seen if " " in line]
    return {name: tuple(map(int, rest)) for name, *rest in lines}


def compare(report: Object, truth: dict[str, tuple[int, ...]]) -> None:
    heap = report["heap"]
    for name, kind in GROUPS.items():
        (group,) = [
            one for one in heap["groups"] if one["kind"] == kind and one["name"].startswith(name)
        ]
        count, size, lost = truth[name]
        assert (group["count"], group["least_bytes"], group["most_bytes"]) == (count, size, size)
        assert group["bytes"] == count * size
        assert group["lost"]["definite_count"] == lost
    for name, kind in (("node", "block"), ("large", "zero")):
        count, size, lost = truth[name]
        found = [
            (one["count"], one["lost"]["definite_count"])
            for one in heap["groups"]
            if (one["kind"], one["least_bytes"], one["most_bytes"]) == (kind, size, size)
        ]
        assert found == [(count, lost)]
    lost_groups = [
        group for group in truth.values() if len(group) == len(("count", "size", "lost"))
    ]
    assert heap["lost"]["definite_count"] == sum(lost for _, _, lost in lost_groups)
    assert heap["lost"]["definite_bytes"] == sum(size * lost for _, size, lost in lost_groups)
    assert heap["lost"]["scanned_count"] == heap["in_use"]["count"]
    assert sum(one["count"] for one in heap["groups"]) == heap["in_use"]["count"]
    assert sum(one["bytes"] for one in heap["groups"]) == heap["in_use"]["bytes"]
    (main,) = [arena for arena in heap["arenas"] if arena["is_main"]]
    (free,) = truth["free"]
    assert main["between_bytes"] >= free >= main["largest_bytes"] >= free - 64


def rollup(pid: int) -> int:
    """Rss of /proc/PID/smaps_rollup, in bytes."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    match = re.search(r"^Rss: +(\d+) kB$", text, re.M)
    assert match is not None
    return int(match[1]) * 1024


def test_what_is_in_it_is_what_the_program_says(target: Target) -> None:
    do(target, "all")
    report = heap_of("-p", str(target.pid))
    compare(report, numbers(target))
    account = report["account"]
    assert account["resident_bytes"] == rollup(target.pid)
    assert sum(account["parts"].values()) == account["resident_bytes"]
    assert min(account["parts"].values()) > 0
    assert 0 < report["pause_ms"] <= 20_000
    status = Path(f"/proc/{target.pid}/status").read_text()
    assert re.search(r"^State:\tS.*^TracerPid:\t0$", status, re.M | re.S)
    target.send("exit")
    assert target.end() == 0


def test_a_second_look_says_what_has_grown(target: Target) -> None:
    do(target, "all")
    with Tracer("heap", "-p", str(target.pid), *ALL[:2], "-T", "3", "0.5", "1") as tracer:
        first = json.loads(tracer.stdout.next() or "")
        target.do("grow 123")
        outcome = tracer.finish()
    assert outcome.exit_code == 0
    second = json.loads(outcome.stdout.splitlines()[-1])
    assert (first["final"], second["final"], second["number"]) == (False, True, 2)
    _, size, _ = numbers(target)["shop::Session"]
    grown = {"count": 123, "bytes": 123 * size}
    top = second["heap"]["groups"][0]
    assert (top["name"], top["since_first"], top["since_previous"]) == (
        "shop::Session",
        grown,
        grown,
    )
    assert second["heap"]["since_first"] == grown


@pytest.mark.parametrize("source", ["lost.c", "lost_objects.cpp"])
def test_blocks_that_nothing_points_to(compiled: Compiler, source: str) -> None:
    """Nothing was traced, and nothing that was freed hides them."""
    with Target([compiled(source)]) as target:
        do(target.await_ready(), "all")
        truth = [line.split()[2:] for line in target.seen if line.startswith("truth ")]
        assert truth
        lost = heap_of("-p", str(target.pid))["heap"]["lost"]
    sums = [sum(int(one[place]) for one in truth) for place in range(3)]
    if source == "lost.c":  # its pointer past the end of a block is within what malloc has added
        sums[0], sums[2] = sums[0] - 1, sums[2] + 1
    names = [f"{kind}_count" for kind in ("definite", "indirect", "possible")]
    assert [lost[name] for name in names] == sums


def test_stacks_of_threads_that_have_ended_hide_nothing(compiled: Compiler, tmp_path: Path) -> None:
    with Target([compiled("lost.c")]) as target:
        do(target.await_ready(), "ended")
        truth = [line.split()[2:] for line in target.seen if line.startswith("truth ")]
        subprocess.run(
            ["gcore", "-o", tmp_path / "core", str(target.pid)], check=True, capture_output=True
        )
        alive = heap_of("-p", str(target.pid))["heap"]["lost"]
        dead = heap_of("--core", str(tmp_path / f"core.{target.pid}"))["heap"]["lost"]
    expected = sum(int(one[0]) for one in truth)
    assert expected > 0
    assert (alive["definite_count"], dead["definite_count"]) == (expected, expected)


def test_a_table_that_looks_like_a_cache_of_malloc(compiled: Compiler) -> None:
    with Target([compiled("table_like_cache.c")]) as target:
        target.await_done()
        heap = heap_of("-p", str(target.pid))["heap"]
    assert heap["lost"]["definite_count"] == heap["lost"]["indirect_count"] == 0
    assert heap["in_use"]["bytes"] >= 100_000 + 24 + 640
    assert all(arena["cached_bytes"] == 0 for arena in heap["arenas"])


def test_a_core_file_says_the_same(target: Target, tmp_path: Path) -> None:
    do(target, "all")
    alive = heap_of("-p", str(target.pid))
    subprocess.run(
        ["gcore", "-o", tmp_path / "core", str(target.pid)], check=True, capture_output=True
    )
    core = tmp_path / f"core.{target.pid}"
    report = heap_of("--core", str(core))
    compare(report, numbers(target))
    assert (report["pid"], report["command"][:11]) == (target.pid, "heap_blocks")
    for arena in alive["heap"]["arenas"]:
        arena["trimmable_bytes"] = None  # a core file doesn't say what is in RAM
    for field in ("in_use", "free_bytes", "own_bytes", "overhead_bytes", "lost", "arenas"):
        assert report["heap"][field] == alive["heap"][field], field
    assert (report["account"], report["pause_ms"]) == (None, None)


def test_the_core_file_of_the_kernel(compiled: Compiler, tmp_path: Path) -> None:
    if Path("/proc/sys/kernel/core_pattern").read_text().strip() not in ("core", "core.%p"):
        pytest.skip("core files of this machine go elsewhere")
    with Target(
        ["sh", "-c", f"cd {tmp_path}; ulimit -c unlimited; exec {compiled('heap_blocks.cpp')}"]
    ) as target:
        do(target.await_ready(), "all")
        os.kill(target.pid, signal.SIGABRT)
        assert target.end() == -signal.SIGABRT
        (core,) = tmp_path.glob("core*")
        compare(heap_of("--core", str(core)), numbers(target))


def test_the_example_of_the_readme(tmp_path: Path) -> None:
    program = tmp_path / "sessions"
    source = REPOSITORY / "examples/sessions.cpp"
    subprocess.run(["g++", "-O2", "-g", source, "-o", program], check=True)
    with Target([program]) as target:
        while (outcome := run_leaktrace("heap", "-p", str(target.pid))).exit_code == 4:
            pass  # it has not started to allocate
        while "20,000 × 248 B" not in outcome.stdout:
            outcome = run_leaktrace("heap", "-p", str(target.pid))
            assert outcome.exit_code == 0, outcome.stderr
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    shown = readme[readme.index("leaktrace  heap of sessions") :].split("RSS", 1)[0]
    for line in shown.splitlines()[2:9]:
        # One block more or less may be held by what was left in a register.
        pattern = re.escape(line.strip()).replace("4,999", "(4,99[0-9]|5,000)")
        assert re.search(pattern, outcome.stdout), (line, outcome.stdout)


def test_what_can_not_be_looked_at_is_explained(target: Target, tmp_path: Path) -> None:
    do(target, "all")
    text = tmp_path / "text"
    text.write_text("no core file, but long enough to be one by its size" * 10)
    cut = tmp_path / "cut"
    cut.write_bytes(Path("/proc/self/exe").read_bytes()[:5000])
    pid = str(target.pid)
    cases = [
        (("--core", str(text)), 1, "no core file"),
        (("--core", str(cut)), 1, "no core file"),
        (("--core", str(tmp_path)), 1, "can't be read"),
        (("--core", str(tmp_path / "missing")), 1, "can't be read"),
        (("-p", pid, "--max-pause-ms", "0"), 2, "--max-pause-ms"),
        (("-p", pid, "--core", str(text)), 2, "two targets"),
        (("--core", str(text), "5"), 2, "INTERVAL"),
        ((), 2, "nothing to look at"),
        (("-p", pid, "1", "2", "3"), 2, "unexpected"),
    ]
    for words, code, what in cases:
        outcome = run_leaktrace("heap", *words)
        assert outcome.exit_code == code, (words, outcome)
        message, advice = outcome.stderr.splitlines()
        assert what in message, outcome.stderr
        assert advice.startswith("  hint: ")
        assert outcome.stdout == ""
