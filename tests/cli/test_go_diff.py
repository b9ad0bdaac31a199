"""`leaktrace diff` of what `leaktrace go -f json` has written."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness.goroutines import await_file, running, started
from harness.tracer import run_leaktrace
from read_exports import read_pprof

Builder = Callable[[str], Path]
Object = dict[str, Any]
ALL = ("-f", "json", "-T", "100000")
MIB = 1 << 20


def looked(pid: int, file: Path, *words: str) -> list[Object]:
    outcome = run_leaktrace("go", "-p", str(pid), *words, *ALL, "--output", str(file))
    assert outcome.exit_code == 0, outcome.stderr
    return [json.loads(line) for line in file.read_text().splitlines()]


def compared(*words: str | Path) -> Object:
    outcome = run_leaktrace("diff", *map(str, words), "-f", "json")
    assert outcome.exit_code == 0, outcome.stderr
    value: Object = json.loads(outcome.stdout)
    return value


def functions(site: Object) -> list[str]:
    return [frame["function"] for frame in site["frames"]]


def in_use(report: Object) -> int:
    held: int = report["heap"]["profile"]["in_use_bytes"]
    return held


def test_sites_of_the_heap(go_heap_profile: Builder, tmp_path: Path) -> None:
    program, run, other = go_heap_profile("debian"), tmp_path / "run", tmp_path / "other"
    with started(program, "grow", env={"GOGC": "off"}) as pid:
        while in_use(looked(pid, run)[0]) < 50 * MIB:
            time.sleep(0.2)
        first, last = looked(pid, run, "1.5", "2")
    with started(program, "grow", env={"GOGC": "off"}) as pid:
        looked(pid, other, "0.1", "1")
    difference = compared(f"{run}@first", f"{run}@last")
    assert difference["base_total"] == in_use(first) > 0
    assert difference["new_total"] == in_use(last)
    grown = {
        name: next(site for site in difference["sites"] if name in functions(site))
        for name in ("main.task", "main.conf")
    }
    for name, site in grown.items():
        held = [
            sum(
                one["in_use_bytes"]
                for one in report["heap"]["profile"]["sites"]
                if name in functions(one) and "main.inlined" in functions(one)
            )
            for report in (first, last)
        ]
        assert [site["base_value"], site["new_value"]] == held
        assert site["rule"] == "id"
    check_heaps(difference["go_heap"], first["heap"], last["heap"])
    # Another run at other addresses: the same sites, by the same ids.
    again = compared(other, f"{run}@last")
    by_id = [site["new_ids"] for site in again["sites"] if site["rule"] == "id"]
    assert all(site["new_ids"] in by_id for site in grown.values())


def check_heaps(compared: Object, first: Object, last: Object) -> None:
    """By what each of the reports has."""
    assert compared["base"].items() <= first.items()
    assert compared["new"].items() <= last.items()
    assert last["in_use_bytes"] > first["in_use_bytes"]
    before, now = sizes_of(first), sizes_of(last)
    known = {key: now.get(key, 0) - before.get(key, 0) for key in {**before, **now}}
    found = {(one["object_bytes"], one["has_pointers"]): one for one in compared["sizes"]}
    for key, difference in known.items():
        assert difference == (found[key]["difference_bytes"] if key in found else 0)
    # 64 and 128 KiB, in turns.
    conf, task = (found[size, False]["difference_bytes"] for size in (64 << 10, 128 << 10))
    assert conf * 1.9 < task < conf * 2.1
    assert [one["object_bytes"] for one in compared["sizes"][:2]] == [128 << 10, 64 << 10]
    assert compared["not_compared_count"] == 0


def sizes_of(heap: Object) -> dict[tuple[int, bool], int]:
    return {(one["object_bytes"], one["has_pointers"]): one["bytes"] for one in heap["sizes"]}


def test_the_error_of_estimates_and_words(go_heap_profile: Builder, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with started(go_heap_profile("debian"), "grow", env={"GOGC": "off"}) as pid:
        while in_use(looked(pid, run)[0]) < 50 * MIB:
            time.sleep(0.2)
        looked(pid, run, "1.5", "2")
    outcome = run_leaktrace("diff", f"{run}@first", f"{run}@last", "-T", "1")
    assert outcome.exit_code == 0, outcome.stderr
    assert "after the first look" in outcome.stdout
    assert "standard error ±" in outcome.stdout
    assert re.search(r"^heap: MORE \+[\d.]+ MiB in use", outcome.stdout, re.MULTILINE)
    assert re.search(r"^ +\+[\d.]+ MiB .* 128.0 KiB without pointers", outcome.stdout, re.MULTILINE)
    assert "goroutines: SAME" in outcome.stdout
    assert "tracing" not in outcome.stdout
    assert max(map(len, outcome.stdout.splitlines())) <= 80
    allocated = run_leaktrace("diff", f"{run}@1", f"{run}@2", "--quantity", "allocated-blocks")
    assert "objects allocated since the profile is on" in " ".join(allocated.stdout.split())
    few = tmp_path / "few"
    few.write_text(
        "".join(
            json.dumps({**one, "heap": {**one["heap"], **few_of(one)}}) + "\n"
            for one in map(json.loads, run.read_text().splitlines())
        )
    )
    cut = run_leaktrace("diff", f"{few}@1", f"{few}@2")
    assert "base doesn't list 2 sites" in cut.stdout
    assert "sizes or types that only one report lists, not compared: 2" in cut.stdout
    shown = run_leaktrace("show", str(few))
    assert "... and 2 other sites" in shown.stdout


def few_of(report: Object) -> Object:
    """The profile with the first site of three, as -T 1 lists it, and a size of two that in the
    second report is another one."""
    heap: Object = report["heap"]
    profile, sizes = heap["profile"], heap["sizes"][report["number"] - 1 :][:1]
    few = {**profile, "sites": profile["sites"][:1], "site_count": 3}
    return {"profile": few, "sizes": sizes, "size_count": 2}


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_recording_has_all_sites(suffix: str, go_program: Builder, tmp_path: Path) -> None:
    record, shown = tmp_path / f"run{suffix}", tmp_path / "shown"
    with running(go_program("debian"), "stuck", "3", "/dev/null") as (pid, _):
        words = ("go", "-p", str(pid), "0.2", "2", "-f", "json", "-T", "2")
        written = ("--output", str(shown), "--record", str(record))
        outcome = run_leaktrace(*words, *written)
        again = run_leaktrace(*words, *written)
        plain = run_leaktrace(*words, "--output", str(tmp_path / "plain"))
    assert outcome.exit_code == plain.exit_code == 0, outcome.stderr
    assert again.exit_code != 0
    assert "exists" in again.stderr
    opened = gzip.open if suffix else open
    with opened(record, "rt") as file:
        lines = [json.loads(line) for line in file]
    assert [len(one["goroutines"]) for one in lines] == [one["group_count"] for one in lines]
    assert all(one["group_count"] > 5 for one in lines)
    listed = [json.loads(line) for line in shown.read_text().splitlines()]
    for one, all_of_it in zip(listed, lines, strict=True):
        assert one["goroutines"] == all_of_it["goroutines"][:2]
        assert len(one["heap"]["sizes"]) == 2 == one["top"]
        rest = ("goroutines", "heap", "top")
        assert {**one, **dict.fromkeys(rest)} == {**all_of_it, **dict.fromkeys(rest)}
    difference = compared(f"{record}@1", f"{record}@2")
    assert (difference["difference"], difference["came"], difference["went"]) == (0, 0, 0)
    assert difference["matched"]["id"] > 5


def test_a_recording_that_cannot_be_written(go_program: Builder) -> None:
    with running(go_program("debian"), "many", "3") as (pid, _):
        for file, named in (("-", "standard output"), ("/nowhere/run", "--record")):
            outcome = run_leaktrace("go", "-p", str(pid), "--record", file)
            assert outcome.exit_code != 0
            assert named in outcome.stderr or file in outcome.stderr
            assert len(outcome.stderr.splitlines()) == 2


def test_a_recording_on_a_full_disk(go_program: Builder, tmp_path: Path) -> None:
    """The reports go on, and what is missing is told."""
    file = tmp_path / "run"
    with running(go_program("debian"), "many", "3") as (pid, _):
        words = ("go", "-p", str(pid), "0.2", "2", "-f", "json", "--record", str(file))
        outcome = run_leaktrace(*words, prefix=("prlimit", "--fsize=1000"))
    assert outcome.exit_code == 1
    assert len(outcome.stdout.splitlines()) == 2
    assert "can't write" in outcome.stderr
    assert "2 reports are missing" in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_goroutines_and_other_builds(go_program: Builder, tmp_path: Path) -> None:
    """Programs without a profile of their heap have goroutines to compare."""
    base, new, pie = (tmp_path / name for name in ("base", "new", "pie"))
    for kind, count, file in (("debian", 20, base), ("debian", 50, new), ("debian-pie", 30, pie)):
        with running(go_program(kind), "many", str(count)) as (pid, _):
            looked(pid, file)
    for one, other, by, change in ((base, new, "id", 30), (new, pie, "names", -20)):
        difference = compared(one, other, "--force")
        site = next(site for site in difference["sites"] if "main.receives" in functions(site))
        assert site["difference"] == change
        assert site["rule"] == by
        assert site["state"] == "chan receive"
    text = run_leaktrace("diff", str(base), str(new)).stdout
    assert re.search(r"^goroutines: MORE \+30", text, re.MULTILINE)
    assert "there is no profile of the heap" in text
    assert re.search(r"^heap: (MORE|LESS|SAME)", text, re.MULTILINE)


def test_the_difference_to_nothing_is_the_profile(go_heap_profile: Builder, tmp_path: Path) -> None:
    run, truth, file = tmp_path / "run", tmp_path / "truth", tmp_path / "d.pb.gz"
    with started(go_heap_profile("debian"), "keep", "20000", str(truth)) as pid:
        looked(pid, run)
        os.kill(pid, signal.SIGUSR1)
        await_file(truth)
    empty = json.loads(run.read_text())
    profile = empty["heap"]["profile"]
    profile |= {"sites": [], "site_count": 0, "in_use_count": 0, "in_use_bytes": 0}
    none = tmp_path / "none"
    none.write_text(json.dumps(empty) + "\n")
    outcome = run_leaktrace("diff", str(none), str(run), "-f", "pprof", "--output", str(file))
    assert outcome.exit_code == 0, outcome.stderr
    told = read_pprof((tmp_path / "truth.profile.pb.gz").read_bytes()).figures["inuse_space"]
    ours = read_pprof(file.read_bytes()).figures["inuse_space"]
    assert {stack: held for stack, held in ours.items() if held} == {
        stack: held for stack, held in told.items() if held
    }
    damaged = tmp_path / "damaged"
    damaged.write_text(run.read_text().replace('"in_use_bytes":', '"in_use_byte":'))
    refused = run_leaktrace("diff", str(damaged), str(run))
    assert refused.exit_code != 0
    assert "in_use_bytes" in refused.stderr
    assert "Traceback" not in refused.stderr
