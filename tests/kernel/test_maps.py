"""`leaktrace maps` on programs that know what they hold, compared with their own account (mincore),
with the kernel's sums and with pmap -X (procps)."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.compiling import Compiler
from harness.privileges import anybodys_python, nobody_with
from harness.target import Target
from harness.tracer import COMMAND, Outcome, Tracer, run_leaktrace, tracer_environment

MIB = 1 << 20
# What a thread's stack holds beside what the program touches: the control block, frames.
STACK_ROOM = 64 << 10
FIGURES = {
    "Rss": "resident_bytes",
    "Pss": "proportional_bytes",
    "Swap": "swapped_bytes",
    "Size": "reserved_bytes",
}
Object = dict[str, Any]


@pytest.fixture
def target(compiled: Compiler, tmp_path: Path) -> Iterator[Target]:
    with Target([compiled("maps.c"), tmp_path / "mapped"]) as target:
        yield target.await_ready()


def maps_of(pid: int, *options: str) -> Object:
    """The report of a single look, with all mappings."""
    outcome = run_leaktrace("maps", "-p", str(pid), "-f", "json", "-T", "100000", *options)
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    report: Object = json.loads(outcome.stdout)
    return report


def kind(report: Object, name: str) -> Object:
    line: Object
    (line,) = [one for one in report["kinds"] if one["kind"] == name]
    return line


def mapping_at(report: Object, place: int, of: str = "largest") -> Object:
    found: Object
    (found,) = [one for one in report[of] if int(one["start"], 16) <= place < int(one["end"], 16)]
    return found


def kernels_sum(pid: int, field: str) -> int:
    """A sum of /proc/PID/smaps, in bytes."""
    text = Path(f"/proc/{pid}/smaps").read_bytes()
    return 1024 * sum(int(kib) for kib in re.findall(rf"^{field}: +(\d+) kB$".encode(), text, re.M))


def in_status(pid: int, field: str) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    (kib,) = re.findall(rf"^{field}:\s+(\d+) kB$", text, re.M)
    return int(kib) * 1024


# --- figures -------------------------------------------------------------------------------------


def test_reserved_and_touched_memory(target: Target) -> None:
    start, end, touched = target.do("map")
    assert (end - start, touched) == (32 * MIB, 10 * MIB)
    found = mapping_at(maps_of(target.pid), start)
    assert (int(found["start"], 16), int(found["end"], 16)) == (start, end)
    assert (found["kind"], found["permissions"]) == ("anonymous", "rw-p")
    assert (found["reserved_bytes"], found["resident_bytes"]) == (32 * MIB, 10 * MIB)
    assert found["proportional_bytes"] == 10 * MIB  # nobody shares it


def test_the_sums_are_those_of_the_kernel(target: Target) -> None:
    """The process waits meanwhile, so that two readings are the same."""
    for command in ("map", "stacks", "arenas", "memfd", "file", "free"):
        target.do(command)
    report = maps_of(target.pid)
    for field, name in FIGURES.items():
        assert report["total"][name] == sum(one[name] for one in report["kinds"])
        # Pss depends on other processes, which map and unmap the same libraries.
        room = 0 if field != "Pss" else MIB
        assert abs(report["total"][name] - kernels_sum(target.pid, field)) <= room, field
    # The kernel counts resident pages at another place. Until Linux 6.15 it adds up what each CPU
    # or thread has counted only from time to time: 64 pages for each of them may be missing.
    room = 64 * 4096 * max(os.cpu_count() or 1, report["thread_count"])
    assert abs(report["total"]["resident_bytes"] - in_status(target.pid, "VmRSS")) <= room
    assert report["thread_count"] == 8


def test_a_look_changes_nothing_in_the_process(target: Target) -> None:
    """No page fault, no page table more, although memory of stacks and arenas is read."""

    def state() -> tuple[int, int, int]:
        fields = Path(f"/proc/{target.pid}/stat").read_text().rpartition(")")[2].split()
        faults = int(fields[7]) + int(fields[9])  # minflt, majflt
        return faults, in_status(target.pid, "VmPTE"), kernels_sum(target.pid, "Rss")

    for command in ("map", "stacks", "arenas", "file"):
        target.do(command)
    before = state()
    maps_of(target.pid)
    assert state() == before


def pmap(pid: int) -> tuple[dict[int, dict[str, int]], dict[str, int]]:
    """What pmap -X says: the figures of each mapping by start address, and their sums, in bytes."""
    text = subprocess.run(
        ["pmap", "-X", str(pid)], capture_output=True, text=True, check=True
    ).stdout
    _, head, *lines = text.splitlines()
    names = head.split()[5:-1]  # after address, permissions, offset, device, inode
    found = {}
    for line in lines:
        words = line.split()
        if re.fullmatch("[0-9a-f]+", words[0]) and len(words) > 5 + len(names) - 1:
            figures = [int(word) * 1024 for word in words[5 : 5 + len(names)]]
            found[int(words[0], 16)] = dict(zip(names, figures, strict=True))
    sums = [int(word) * 1024 for word in lines[-1].split()[:-1]]
    return found, dict(zip(names, sums, strict=True))


def test_every_mapping_as_pmap_shows_it(target: Target, require_tool: Callable[[str], str]) -> None:
    require_tool("pmap")
    for command in ("map", "stacks", "arenas", "memfd", "segment", "shared", "file", "huge"):
        target.do(command)
    report = maps_of(target.pid)
    mappings, sums = pmap(target.pid)
    assert report["total"]["resident_bytes"] == sums["Rss"]
    assert report["total"]["swapped_bytes"] == sums["Swap"]
    assert report["total"]["reserved_bytes"] == sums["Size"]
    assert report["mapping_count"] == len(mappings)
    for one in report["largest"]:
        figures = mappings[int(one["start"], 16)]
        assert one["resident_bytes"] == figures["Rss"], one
        assert one["reserved_bytes"] == figures["Size"], one
    shown = {int(one["start"], 16) for one in report["largest"]}
    assert not any(mappings[start]["Rss"] for start in mappings.keys() - shown)


# --- kinds ---------------------------------------------------------------------------------------


def test_stacks_of_threads_that_wait(target: Target) -> None:
    places = target.do("stacks")
    report = maps_of(target.pid)
    stacks = [mapping_at(report, place) for place in places]
    assert len({one["start"] for one in stacks}) == 4
    assert {one["kind"] for one in stacks} == {"thread_stack"}
    for one in stacks:
        assert MIB <= one["resident_bytes"] <= MIB + STACK_ROOM
    line = kind(report, "thread_stack")
    assert line["mapping_count"] == 4
    assert line["resident_bytes"] == sum(one["resident_bytes"] for one in stacks)
    assert (report["thread_count"], report["notes"]) == (5, [])
    assert kind(report, "main_stack")["mapping_count"] == 1


def test_the_stack_of_a_thread_that_runs(target: Target) -> None:
    """The kernel doesn't tell its stack pointer."""
    (place,) = target.do("spin")
    report = maps_of(target.pid)
    assert mapping_at(report, place)["kind"] == "thread_stack"
    assert report["notes"] == []


def test_arenas_of_glibc(target: Target) -> None:
    places = target.do("arenas")
    report = maps_of(target.pid)
    arenas = [mapping_at(report, place) for place in places]
    assert len({one["start"] for one in arenas}) == 3
    assert {one["kind"] for one in arenas} == {"arena"}
    assert all(2 * MIB <= one["resident_bytes"] <= 3 * MIB for one in arenas)
    assert kind(report, "arena")["mapping_count"] == 3


@pytest.mark.parametrize(
    ("command", "expected", "name"),
    [
        ("memfd", "shared_memory", "/memfd:cache"),
        ("segment", "shared_memory", "/SYSV00000000"),
        ("shared", "shared_memory", "/dev/zero"),
        ("file", "shared_file", "mapped"),
    ],
)
def test_shared_mappings(target: Target, command: str, expected: str, name: str) -> None:
    start, end, touched = target.do(command)
    found = mapping_at(maps_of(target.pid), start)
    assert int(found["end"], 16) == end
    if expected == "shared_file" and found["kind"] == "shared_memory":
        pytest.skip("the directory for temporary files is a tmpfs")
    assert (found["kind"], found["resident_bytes"]) == (expected, touched)
    assert name in found["name"]


@pytest.mark.may_skip("Debian's kernels have no names for anonymous memory")
def test_memory_with_the_name_of_an_allocator(target: Target) -> None:
    start, _, touched = target.do("named")
    if not start:
        pytest.skip("this kernel has no names for anonymous memory (CONFIG_ANON_VMA_NAME)")
    found = mapping_at(maps_of(target.pid), start)
    assert (found["kind"], found["resident_bytes"]) == ("arena", touched)
    assert "jemalloc_pg" in found["name"]


def test_huge_pages(target: Target) -> None:
    if "[never]" in Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text():
        pytest.skip("this machine has no transparent huge pages")
    start, _, touched = target.do("huge")
    report = maps_of(target.pid)
    expected = kernels_sum(target.pid, "AnonHugePages")
    if not expected:
        pytest.skip("the kernel has no free huge page")
    assert mapping_at(report, start)["resident_bytes"] >= touched
    assert report["total"]["huge_page_bytes"] >= expected
    text = run_leaktrace("maps", "-p", str(target.pid)).stdout
    assert "huge pages: " in text


def test_memory_given_back_lazily(target: Target) -> None:
    start, _, _ = target.do("free")
    report = maps_of(target.pid)
    expected = kernels_sum(target.pid, "LazyFree")
    assert expected > 0
    assert report["total"]["lazily_freed_bytes"] == expected
    assert mapping_at(report, start)["lazily_freed_bytes"] == expected


# --- growth --------------------------------------------------------------------------------------


class Watched:
    """A run with reports at very short intervals: each is of a moment after the one before."""

    def __init__(self, pid: int, *words: str) -> None:
        options = ("-f", "json", "-T", "100000")
        self.tracer = Tracer("maps", "-p", str(pid), *options, *(words or ("0.05",)))

    def __enter__(self) -> Watched:
        self.tracer.__enter__()
        self.tracer.stderr.until(lambda line: "looked at" in line)
        return self

    def __exit__(self, *error: Any) -> None:
        self.tracer.__exit__(*error)

    def next(self) -> Object:
        line = self.tracer.stdout.next()
        assert line is not None, self.tracer.stderr.rest()
        report: Object = json.loads(line)
        return report

    def when(self, is_true: Callable[[Object], bool]) -> Object:
        """The next report for which this holds."""
        while not is_true(report := self.next()):
            pass
        return report

    def stop(self, by: signal.Signals = signal.SIGINT) -> Outcome:
        return self.tracer.stop(by)


def test_growth_since_the_first_and_the_previous_look(target: Target) -> None:
    start, end, _ = target.do("map")
    with Watched(target.pid) as watched:
        before = watched.next()
        assert abs(before["since_first"]["resident_bytes"]) <= STACK_ROOM
        target.do("more")
        target.do("memfd")
        grew = watched.when(lambda one: one["since_first"]["resident_bytes"] >= 9 * MIB)
        later = watched.next()
        outcome = watched.stop()
    assert (outcome.exit_code, outcome.stderr.count("Traceback")) == (0, 0)
    mine = mapping_at(grew, start, "grown")
    assert (mine["growth_bytes"], mine["is_new"]) == (6 * MIB, False)
    assert (int(mine["start"], 16), int(mine["end"], 16)) == (start, end)
    assert mine["resident_bytes"] == 16 * MIB
    new = next(one for one in grew["grown"] if "memfd" in one["name"])
    assert (new["growth_bytes"], new["is_new"]) == (3 * MIB, True)
    assert grew["grown"][:2] == [mine, new]
    assert kind(grew, "anonymous")["since_first"]["resident_bytes"] == 6 * MIB
    assert kind(grew, "shared_memory")["since_first"]["resident_bytes"] == 3 * MIB
    assert abs(later["since_previous"]["resident_bytes"]) <= STACK_ROOM
    final = json.loads(outcome.stdout.splitlines()[-1])
    assert (final["final"], final["reason"]) == (True, "interrupted (SIGINT)")
    assert final["since_first"]["resident_bytes"] >= 9 * MIB
    assert target.end() == 0


def test_a_number_of_reports(target: Target) -> None:
    outcome = run_leaktrace("maps", "-p", str(target.pid), "-f", "json", "0.01", "3")
    reports = [json.loads(line) for line in outcome.stdout.splitlines()]
    assert outcome.exit_code == 0, outcome.stderr
    assert [one["number"] for one in reports] == [1, 2, 3]
    assert [one["final"] for one in reports] == [False, False, True]
    assert "looked at" in outcome.stderr


def test_the_end_of_the_process(target: Target) -> None:
    target.do("map")
    with Watched(target.pid, "3600") as watched:
        assert target.end() == 0
        outcome = watched.tracer.finish()
    (final,) = [json.loads(line) for line in outcome.stdout.splitlines()]
    assert outcome.exit_code == 0, outcome.stderr
    assert (final["final"], final["reason"]) == (True, "the target has ended")
    assert final["look_age_s"] > 0
    assert final["total"]["resident_bytes"] >= 10 * MIB


def test_an_exec(target: Target, tmp_path: Path) -> None:
    script = tmp_path / "executes.py"
    script.write_text(
        "import os, sys\n"
        "memory = bytearray(64 << 20)\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "os.execv('/bin/cat', ['cat'])\n"
    )
    with Target([sys.executable, script]) as executing:
        executing.await_ready()
        with Watched(executing.pid) as watched:
            assert watched.next()["notes"] == []
            executing.send()
            report = watched.when(lambda one: one["notes"] != [])
            assert "another program" in report["notes"][0]
            assert report["since_first"]["resident_bytes"] == 0
            outcome = watched.stop()
        assert outcome.exit_code == 0, outcome.stderr


def test_the_first_screen(target: Target) -> None:
    target.do("map")
    outcome = run_leaktrace("maps", "-p", str(target.pid), "0.01", "1")
    lines = outcome.stdout.splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert lines[0].startswith("leaktrace  maps of maps-")
    (total,) = [line for line in lines[:4] if line.startswith("RSS ")]
    assert "since the first look" in total
    assert len(lines) <= 24


# --- errors --------------------------------------------------------------------------------------


def refused(*arguments: str) -> tuple[int, str, str]:
    """Exit status, what happened, what to do."""
    outcome = run_leaktrace("maps", *arguments)
    assert outcome.stdout == ""
    happened, hint = outcome.stderr.splitlines()
    return outcome.exit_code, happened, hint


def test_a_process_that_does_not_exist() -> None:
    assert refused("-p", "4194304")[:2] == (4, "leaktrace: there is no process 4194304")


def test_a_kernel_thread(require_root: None) -> None:
    if Path("/proc/2/comm").read_text().strip() != "kthreadd":
        pytest.skip("pid 2 is no kernel thread in this pid namespace")
    status, happened, _ = refused("-p", "2")
    assert status == 4
    assert "kernel thread" in happened


def test_a_zombie() -> None:
    pid = os.posix_spawn("/bin/true", ["true"], os.environ)
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        status, happened, _ = refused("-p", str(pid))
    finally:
        os.waitpid(pid, 0)
    assert status == 4
    assert "zombie" in happened


def test_without_the_privilege(require_root: None) -> None:
    python, environment = anybodys_python()
    command = [*nobody_with(), "env", python, "-m", "leaktrace", "maps", "-p", str(os.getpid())]
    result = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout) == (3, "")
    assert "CAP_SYS_PTRACE is missing" in result.stderr
    assert len(result.stderr.splitlines()) == 2


def test_the_owner_needs_no_privilege(require_root: None, compiled: Compiler) -> None:
    """Of its own processes it sees all, stacks and arenas too."""
    python, environment = anybodys_python()
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        program = shutil.copy(compiled("maps.c"), directory)
        target = Target([*nobody_with(), program])
        target.await_ready()
    with target:
        (stack, *_), (arena, *_) = target.do("stacks"), target.do("arenas")
        result = subprocess.run(
            [*nobody_with(), "env", python, "-m", "leaktrace", "maps", "-p", str(target.pid),
             "-f", "json", "-T", "100000"],
            env={**os.environ, **environment}, capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    if report["notes"] and Path("/proc/sys/kernel/yama/ptrace_scope").exists():
        pytest.skip("Yama hides the memory of the user's own processes")
    assert mapping_at(report, stack)["kind"] == "thread_stack"
    assert mapping_at(report, arena)["kind"] == "arena"


def test_a_reader_that_has_ended(target: Target) -> None:
    """As `| head -n 1`."""
    with subprocess.Popen(
        [*COMMAND, "maps", "-p", str(target.pid), "0.05"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=tracer_environment(),
    ) as maps:
        assert maps.stdout is not None
        assert maps.stderr is not None
        assert maps.stdout.readline()
        maps.stdout.close()
        assert maps.wait(60) == 0
        assert len(maps.stderr.read().splitlines()) == 1  # what it does
