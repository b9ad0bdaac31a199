"""Memory that is neither malloc's nor mmap's: shared memory and the program break. The truth is
what /proc/PID/maps says of the target, and the target's own account of its break."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.compiling import Compiler
from harness.families import OFTEN, await_traced, last_report
from harness.length import chosen
from harness.reports import Report, Total, total
from harness.target import Target
from harness.tracer import NEVER, Tracer, trace_work
from harness.wording import names

pytestmark = pytest.mark.usefixtures("require_bpf")

PAGE = 4096
MIB = 1 << 20
BLOCKS = Total(20_000 * 100, 20_000)  # what `allocate` in the target keeps
SYSV, SHARED_FILE, BREAK = "sysv", "shared_file", "break"
_SHARED = re.compile(r"([0-9a-f]+)-([0-9a-f]+) ..[x-]s [0-9a-f]+ \S+ \d+ +(\S+)")


@pytest.fixture
def program(compiled: Compiler) -> Path:
    return compiled("other_memory.c")


@pytest.fixture
def file_on_disk(tmp_path: Path) -> Iterator[Path]:
    """A file that is no memory (the tests' own directory is on a disk)."""
    path = Path(__file__).with_name(f".{tmp_path.name}.tmp")
    path.write_bytes(bytes(8 * PAGE))
    yield path
    path.unlink()


def other_memory(report: Report) -> dict[str, dict[str, Any]]:
    return {one["backing"]: one for one in report.raw["other_memory"]}


def held(report: Report) -> dict[str, Total]:
    """What is outstanding by kind, as far as it is anything."""
    totals = {
        backing: Total(one["outstanding"]["bytes"], one["outstanding"]["count"])
        for backing, one in other_memory(report).items()
    }
    return {backing: one for backing, one in totals.items() if one.count}


def under(report: Report, backing: str, function: str) -> Total:
    sites = Report.sites_of(other_memory(report)[backing])
    return total(tuple(one for one in sites if function in one.functions))


def mapped_by(pid: int) -> dict[str, Total]:
    """The shared memory that a process has mapped, by kind, from its mappings."""
    found: dict[str, list[int]] = {SYSV: [], SHARED_FILE: []}
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        match = _SHARED.match(line)
        if match is None:
            continue
        start, end, path = int(match[1], 16), int(match[2], 16), match[3]
        if path.startswith("/SYSV"):
            found[SYSV].append(end - start)
        elif path.startswith(("/memfd:", "/dev/shm/")):
            found[SHARED_FILE].append(end - start)
    return {kind: Total(sum(sizes), len(sizes)) for kind, sizes in found.items() if sizes}


class Truth:
    """Has a target work, and reads its mappings afterwards."""

    def __init__(self, *lines: str) -> None:
        self._lines = lines
        self.mapped: dict[str, Total] = {}

    def __call__(self, target: Target) -> tuple[int, ...]:
        account: tuple[int, ...] = ()
        for line in self._lines:
            account = target.do(line)
        self.mapped = mapped_by(target.pid)
        return account


@pytest.mark.parametrize(
    "options",
    chosen(
        [
            (),
            ("--combined-only", "-s", "10"),
            ("--event-buffer", "perf", "--stack-walker", "fp"),
            ("--probe-returns",),
            ("--sample-bytes", "1000"),
            ("--pair", "attach:close"),
        ],
        [
            ("--combined-only",),
            ("--event-buffer", "perf"),
            ("--stack-walker", "fp"),
            ("-s", "10"),
        ],
    ),
    ids=" ".join,
)
def test_every_kind(program: Path, file_on_disk: Path, options: tuple[str, ...]) -> None:
    truth = Truth("segments", "files", "same", "break")
    traced = trace_work([program, file_on_disk], *options, drive=truth)
    assert truth.mapped[SYSV].bytes > 8 * MIB
    assert truth.mapped[SHARED_FILE].bytes > 5 * MIB
    assert held(traced.report) == {**truth.mapped, BREAK: Total(*traced.account)}
    assert not traced.report.lost_allocations
    # What is mapped over parts of others; of "files"; of "same"; and malloc's, where not sampled.
    mapped = Total((4 + 4 + 2 + 4 + 8 + 16 + 5 * 4) * PAGE, 2 + 4 + 5)
    if not {"-s", "--sample-bytes"} & set(options):
        everything = Total(mapped.bytes + 2 * BLOCKS.bytes, mapped.count + 2 * BLOCKS.count)
        assert traced.report.outstanding == everything


def test_sites_of_segments(program: Path) -> None:
    report = trace_work([program], drive=Truth("segments")).report
    assert under(report, SYSV, "keep_segments") == Total(8 * MIB, 8)
    assert under(report, SYSV, "keep_parts") == Total((12 + 8 + 8 + 8 + 12) * PAGE, 6)
    assert under(report, SYSV, "be_refused") == Total(2 * PAGE, 1)
    assert under(report, SYSV, "release_segments") == Total()
    sites = Report.sites_of(other_memory(report)[SYSV])
    # keep_parts calls mremap, possibly before it is known what that shrinks.
    assert {one.functions[0] for one in sites} - {"keep_parts"} == {"attach"}
    assert all("main" in one.functions for one in sites)
    assert len({one.raw["id"] for one in sites}) == len(sites)


def test_sites_of_files_in_memory(program: Path, file_on_disk: Path) -> None:
    """A shared mapping of a file on disk is no memory: it stays with what mmap returned, as do
    private mappings, and anonymous ones."""
    report = trace_work([program, file_on_disk], drive=Truth("files")).report
    assert under(report, SHARED_FILE, "keep_memfds") == Total(5 * MIB, 5)
    assert under(report, SHARED_FILE, "keep_named") == Total(3 * 8 * PAGE, 3)
    assert under(report, SHARED_FILE, "keep_parts_of_memfds") == Total((13 + 48 + 12) * PAGE, 4)
    assert under(report, SHARED_FILE, "keep_others") == Total()
    assert report.under("keep_others") == Total((2 + 4 + 8 + 16) * PAGE, 4)


def test_one_call_maps_two_kinds(program: Path) -> None:
    """The counters of a site are divided, too."""
    truth = Truth("same")
    report = trace_work([program], drive=truth).report
    assert held(report) == truth.mapped == {SHARED_FILE: Total(5 * 4 * PAGE, 5)}
    assert report.outstanding == Total(5 * 4 * PAGE, 5)
    (one,), (other,) = report.sites, Report.sites_of(other_memory(report)[SHARED_FILE])
    assert one.frames == other.frames
    assert one.raw["id"] != other.raw["id"]
    for site in (one, other):
        assert (site.raw["allocated_bytes"], site.raw["allocated_count"]) == (5 * 4 * PAGE, 5)
        assert (site.raw["freed_bytes"], site.raw["freed_count"]) == (0, 0)


def test_sites_of_the_break(program: Path) -> None:
    """What malloc raises it by is malloc's own."""
    report = trace_work([program], drive=Truth("break")).report
    assert under(report, BREAK, "keep_break") == Total(1 + 100 + 4096 + 12295 + MIB + 50, 6)
    assert under(report, BREAK, "lower_break") == Total(2500, 5)
    assert under(report, BREAK, "set_break") == Total(11111, 1)
    assert under(report, BREAK, "allocate") == Total()
    sites = Report.sites_of(other_memory(report)[BREAK])
    assert not any("sbrk" in str(one.functions[0]) for one in sites)  # the stack of its caller
    (brk,) = (one for one in sites if one.functions[0] == "set_break")
    assert (brk.raw["allocated_bytes"], brk.raw["freed_bytes"]) == (12345, 12345 - 11111)


def test_the_first_hooked_call_after_the_attach(program: Path) -> None:
    traced = trace_work([program], drive=Truth("lower"))
    assert held(traced.report) == {BREAK: Total(*traced.account)} == {BREAK: Total(2500, 5)}
    assert not traced.report.lost_allocations


def test_a_heap_that_grows_and_shrinks_is_no_break(program: Path) -> None:
    report = trace_work([program], drive=Truth("heap")).report
    assert held(report) == {}
    assert all(not one["sites"] for one in other_memory(report).values())
    assert report.outstanding == Total()


def test_resident_memory_is_compared_with_all_of_it(program: Path) -> None:
    report = trace_work([program], drive=Truth("touched")).report
    size = 32 * MIB
    assert held(report) == dict.fromkeys((SYSV, SHARED_FILE, BREAK), Total(size, 1))
    assert report.outstanding == Total()
    assert report.raw["resident"]["since_attach_bytes"] >= 3 * size
    assert report.raw["remarks"] == []


def test_sizes_that_are_asked_for(program: Path) -> None:
    truth = Truth("segments", "break")
    options = ("-z", str(MIB), "-Z", str(MIB))
    report = trace_work([program], *options, drive=truth).report
    assert held(report) == {SYSV: Total(8 * MIB, 8), BREAK: Total(MIB, 1)}


def test_a_break_that_can_not_be_read(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEAKTRACE_WITHOUT", "program_break")
    report = trace_work([program], drive=Truth("break")).report
    assert set(other_memory(report)) == {SYSV, SHARED_FILE}
    assert any(names(note, "brk", "BTF") for note in report.raw["target"]["notes"])
    assert not report.lost_allocations


def test_an_exec_forgets_it(program: Path) -> None:
    def drive(target: Target) -> tuple[int, ...]:
        for line in ("segments", "same", "break"):
            target.do(line)
        target.send("exec")
        target.await_ready()
        return target.do("lower")

    traced = trace_work([program], drive=drive)
    assert held(traced.report) == {BREAK: Total(2500, 5)}


def test_children(program: Path) -> None:
    """Each process has its own account; a child has copies of its parent's memory."""
    with Target([program]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), "--follow", *OFTEN) as tracer:
            tracer.await_armed()
            target.do("segments")
            (child,) = target.do("fork")
            of_parent = mapped_by(target.pid)[SYSV]
            await_traced(tracer, child)
            before = mapped_by(child)[SYSV]
            target.do("child segments")
            target.do("child lower")
            of_child = mapped_by(child)[SYSV]
            report = last_report(tracer)
    gained = Total(of_child.bytes - before.bytes, of_child.count - before.count)
    assert held(report) == {
        SYSV: Total(of_parent.bytes + gained.bytes, of_parent.count + gained.count),
        BREAK: Total(2500, 5),
    }
    shares: dict[int, int] = {}
    for site in other_memory(report)[SYSV]["sites"]:
        for one in site["processes"]:
            shares[one["pid"]] = shares.get(one["pid"], 0) + one["bytes"]
    assert shares == {target.pid: of_parent.bytes, child: gained.bytes}


def test_the_text_names_each_kind(program: Path) -> None:
    with Target([program]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), "-o", "0", NEVER) as tracer:
            tracer.await_armed()
            target.do("segments")
            target.do("same")
            bytes_, count = target.do("lower")
            mapped = mapped_by(target.pid)
            text = tracer.stop().stdout
    assert (bytes_, count) == (2500, 5)
    flat = " ".join(text.split())
    assert f"shared memory (SysV): outstanding 8.2 MiB in {mapped[SYSV].count} mappings" in flat
    assert "shared memory (memfd, /dev/shm): outstanding 80.0 KiB in 5 mappings" in flat
    assert "program break (brk, sbrk): outstanding 2.4 KiB in 5 allocations" in flat
    assert "not included, see below: shared memory (SysV) 8.2 MiB in" in flat


def test_traced_calls(program: Path) -> None:
    """sbrk calls brk. What malloc and free do with it is theirs. (Their blocks are smaller than
    200 bytes.)"""
    with Target([program]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), "-t", "-z", "200", NEVER) as tracer:
            tracer.await_armed()
            target.do("heap")
            target.do("lower")
            target.do("segments")
            text = tracer.stop().stdout
    calls = [line.split()[2:4] for line in text.splitlines() if re.match(r" *\d+\.\d{6} ", line)]
    sizes = {name: [size for of, size in calls if of == name] for name, _ in calls}
    assert sizes["brk"] == ["1000", "5000", "-5500"] * 5
    assert sizes["shmat"] == ["-"] * len(sizes["shmat"])
    assert len(sizes["shmat"]) == 8 + 5 + 6 + 1 + 5  # of which the last ones fail
    assert len(sizes["shmdt"]) == 5 + 1 + 5


def test_the_memleak_format_has_what_memleak_counts(program: Path) -> None:
    with Target([program]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), "-o", "0", "-f", "memleak", NEVER) as tracer:
            tracer.await_armed()
            target.do("same")
            target.do("segments")
            outcome = tracer.stop()
    assert outcome.stdout.count(f"{5 * 4 * PAGE} bytes in 5 allocations from stack") == 2
    assert "SysV" not in outcome.stdout
    assert names(outcome.stderr, "SysV")


def test_nothing_of_it_is_hooked_with_faults(program: Path) -> None:
    report = trace_work([program], "--faults", drive=Truth("segments")).report
    assert "other_memory" not in report.raw
