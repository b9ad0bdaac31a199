"""`leaktrace go -f pprof` and others: equal to what the program writes itself by runtime/pprof."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness.goroutines import BUILDS, await_file, builder, running, started
from harness.tracer import Outcome, Tracer, run_leaktrace
from read_exports import Figures, Pprof, read_folded, read_massif, read_pprof, read_speedscope

Builder = Callable[[str], Path]
KEPT = 20_000
EACH = 5
TYPES = ["alloc_objects", "alloc_space", "inuse_objects", "inuse_space"]


@pytest.fixture
def pprof(require_tool: Callable[[str], str], tmp_path: Path) -> Callable[..., str]:
    """`go tool pprof`."""
    go = require_tool("go")

    def run(*words: str | Path) -> str:
        environment = {**os.environ, "HOME": str(tmp_path), "PPROF_TMPDIR": str(tmp_path)}
        command = [go, "tool", "pprof", *map(str, words)]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="session")
def goroutines_profile(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    """goroutines.go, which writes its own profile, too."""
    folder = tmp_path_factory.mktemp("go")
    return builder(folder, "goroutines.go", "goroutines_profile.go")


def exported(pid: int, file: Path, *words: str) -> Outcome:
    outcome = run_leaktrace("go", "-p", str(pid), *words, "--output", str(file))
    assert outcome.exit_code == 0, outcome.stderr
    return outcome


def nonzero(read: Pprof) -> dict[str, Figures]:
    """Without records that count nothing yet, such as those of pprof's own allocations."""
    return {
        name: {stack: value for stack, value in figures.items() if value}
        for name, figures in read.figures.items()
    }


def rows(shown: str) -> list[str]:
    """The table of pprof -top."""
    return shown.splitlines()[[line.split()[:1] for line in shown.splitlines()].index(["flat"]) :]


def own_profile(pid: int, truth: Path) -> None:
    """Let the program write what it knows, to `truth` and beside it."""
    os.kill(pid, signal.SIGUSR1)
    await_file(truth)


@pytest.mark.parametrize("kind", BUILDS)
def test_the_heap_is_what_the_program_writes(
    kind: str, go_heap_profile: Builder, pprof: Callable[..., str], tmp_path: Path
) -> None:
    truth, file = tmp_path / "truth", tmp_path / "heap.pb.gz"
    with started(go_heap_profile(kind), "keep", str(KEPT), str(truth)) as pid:
        exported(pid, file, "-f", "pprof")
        own_profile(pid, truth)
    theirs = tmp_path / "truth.profile.pb.gz"
    one, other = read_pprof(file.read_bytes()), read_pprof(theirs.read_bytes())
    assert list(one.figures) == TYPES
    assert one.default == "inuse_space"
    assert nonzero(one) == nonzero(other)
    assert len(nonzero(one)["alloc_space"]) >= 3  # which are recorded, is chance
    sizes = [Counter(label.get("bytes") for label in read.labels) for read in (one, other)]
    assert sizes[0] <= sizes[1]
    assert {label["pid"] for label in one.labels} == {pid}
    assert any("go1." in comment for comment in one.comments)
    assert not any("tracing" in comment for comment in one.comments)
    for index, by in zip(TYPES, ("-lines", "-addresses", "-functions", "-addresses"), strict=True):
        shown = [
            rows(pprof("-top", by, "-nodefraction=0", f"-sample_index={index}", path))
            for path in (file, theirs)
        ]
        assert shown[0] == shown[1]
        assert any("main.keepSession" in row for row in shown[0])
    peeks = [
        pprof("-peek=main.keepSession$", "-unit=B", path).partition("flat%")[2]
        for path in (file, theirs)
    ]
    assert peeks[0] == peeks[1]
    none = rows(pprof("-top", "-nodefraction=0", f"-diff_base={theirs}", file))
    assert all(re.match(r" *0 ", row) for row in none[1:])


def test_the_same_from_a_recording(go_heap_profile: Builder, tmp_path: Path) -> None:
    truth, run, file = (tmp_path / name for name in ("truth", "run.gz", "heap.pb.gz"))
    with started(go_heap_profile("debian"), "keep", str(KEPT), str(truth)) as pid:
        outcome = run_leaktrace("go", "-p", str(pid), "0.2", "1", "--record", str(run))
        assert outcome.exit_code == 0, outcome.stderr
        own_profile(pid, truth)
    theirs = nonzero(read_pprof((tmp_path / "truth.profile.pb.gz").read_bytes()))
    outcome = run_leaktrace("show", str(run), "-f", "pprof", "--output", str(file))
    assert outcome.exit_code == 0, outcome.stderr
    ours = nonzero(read_pprof(file.read_bytes()))
    goroutines = ours.pop("goroutines_goroutine")
    assert ours == theirs
    assert any("main.keep" in stack for stack in goroutines)
    by_function = run_leaktrace("show", str(run), "--by", "function")
    assert "main.keepSession" in by_function.stdout
    assert "goroutines" in by_function.stdout
    assert re.search(r"^goroutines by function: 2 at ", by_function.stdout, re.MULTILINE)
    allocated = run_leaktrace("show", str(run), "--by", "function", "--quantity", "allocated")
    assert "bytes allocated since the profile is on" in allocated.stdout
    refused = run_leaktrace("show", str(run), "-f", "memleak")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "pprof" in refused.stderr.splitlines()[1]
    for words in (("--marks",), ("--full-stacks",), ("--site", "12"), ("--sysroot", "/")):
        refused = run_leaktrace("show", str(run), *words)
        assert (refused.exit_code, refused.stdout) == (2, "")
        assert words[0] in refused.stderr.splitlines()[0]
    for by in (("--by", "line"), ("-f", "folded")):
        refused = run_leaktrace("show", str(run), *by, "--quantity", "growth")
        assert (refused.exit_code, refused.stdout) == (2, "")
        assert "diff" in refused.stderr.splitlines()[1]


def test_a_recording_is_shown_as_it_was_printed(go_heap_profile: Builder, tmp_path: Path) -> None:
    run = tmp_path / "run.gz"
    with started(go_heap_profile("debian"), "keep", str(KEPT), "/dev/null") as pid:
        printed = run_leaktrace("go", "-p", str(pid), "0.2", "3", "--record", str(run))
    assert printed.exit_code == 0, printed.stderr
    assert printed.stdout.count("report ") == 3
    shown = run_leaktrace("show", str(run), "--from", "first")
    assert (shown.exit_code, shown.stdout) == (0, printed.stdout)
    last = run_leaktrace("show", str(run), "-T", "1")
    assert last.stdout.count("report 3") == 1
    assert "(--top)" in last.stdout
    (value,) = map(json.loads, run_leaktrace("show", str(run), "-f", "json").stdout.splitlines())
    assert (value["schema"], value["number"], value["final"]) == ("leaktrace/go/1", 3, True)


def test_goroutines_of_a_recording_have_no_counters(go_heap: Builder, tmp_path: Path) -> None:
    run = tmp_path / "run.gz"
    with started(go_heap("debian"), "keep", "10", "/dev/null") as pid:
        outcome = run_leaktrace("go", "-p", str(pid), "0.2", "1", "--record", str(run))
    assert outcome.exit_code == 0, outcome.stderr
    shown = run_leaktrace("show", str(run), "--by", "function")
    assert re.search(r"^goroutines by function: \d+ at ", shown.stdout, re.MULTILINE)
    for quantity in ("allocated", "freed-blocks"):
        refused = run_leaktrace("show", str(run), "--by", "function", "--quantity", quantity)
        assert (refused.exit_code, refused.stdout) == (2, "")
        assert "goroutines have no counters" in refused.stderr


@pytest.mark.parametrize("kind", BUILDS)
def test_the_build_id_is_that_of_the_file(
    kind: str, go_heap_profile: Builder, pprof: Callable[..., str], tmp_path: Path
) -> None:
    """Go writes one since 1.24."""
    program, file = go_heap_profile(kind), tmp_path / "heap.pb.gz"
    notes = subprocess.run(["readelf", "-n", program], capture_output=True, text=True, check=True)
    found = re.search(r"Build ID: (\w+)", notes.stdout)
    with started(program, "keep", "100", "/dev/null") as pid:
        exported(pid, file, "-f", "pprof")
    mappings = pprof("-raw", file).rpartition("Mappings")[2]
    assert str(program) in mappings
    assert (found is not None) == bool(re.search(r"[0-9a-f]{40}", mappings))
    assert found is None or found[1] in mappings


def by_function(read: Figures) -> Counter[tuple[str, ...]]:
    """Of goroutines that don't write the account: they do nothing meanwhile."""
    found: Counter[tuple[str, ...]] = Counter()
    for stack, count in read.items():
        if "main.main" not in stack:
            found[stack] += count
    return found


@pytest.mark.parametrize("kind", BUILDS)
def test_goroutines_are_what_the_program_writes(
    kind: str, goroutines_profile: Builder, pprof: Callable[..., str], tmp_path: Path
) -> None:
    truth, file, base = (tmp_path / name for name in ("truth", "now.pb.gz", "none.pb.gz"))
    program = goroutines_profile(kind)
    with running(program, "stuck", str(EACH), str(truth)) as (pid, count):
        outcome = exported(pid, file, "-f", "pprof", "--profile", "goroutine")
        own_profile(pid, truth)
        folded = run_leaktrace(
            "go", "-p", str(pid), "-f", "folded", "--profile", "goroutine", "--output", "-"
        )
    assert "estimate" not in outcome.stderr
    one = read_pprof(file.read_bytes())
    other = read_pprof((tmp_path / "truth.pb.gz").read_bytes())
    assert list(one.figures) == ["goroutine"] == list(other.figures)
    assert one.units == other.units == {"goroutine": "count"}
    assert sum(one.figures["goroutine"].values()) == count
    ours, theirs = by_function(one.figures["goroutine"]), by_function(other.figures["goroutine"])
    assert ours == theirs
    assert sum(theirs.values()) >= 9 * EACH
    assert {"chan receive", "select", "syscall"} <= {label["state"] for label in one.labels}
    assert sum(read_folded(folded.stdout.encode()).values()) == count
    with running(program, "many", "30") as (pid, _):
        exported(pid, base, "-f", "pprof", "--profile", "goroutine")
    more = pprof("-top", "-nodefraction=0", f"-diff_base={base}", file)
    assert re.search(rf" {EACH} +\S+%  main.sends$", more, re.MULTILINE)
    assert re.search(rf" {2 * EACH - 30} +\S+%  main.receives$", more, re.MULTILINE)


def test_the_other_formats(go_heap_profile: Builder, tmp_path: Path) -> None:
    """All show the figures of the program's own profile."""
    truth = tmp_path / "truth"
    files = {name: tmp_path / name for name in ("folded", "speedscope", "flamegraph", "massif")}
    with started(go_heap_profile("debian"), "keep", str(KEPT), str(truth)) as pid:
        for name, file in files.items():
            exported(pid, file, "-f", name)
        exported(pid, tmp_path / "allocated", "-f", "folded", "--quantity", "allocated-blocks")
        exported(pid, tmp_path / "course", "-f", "massif", "0.2", "3")
        own_profile(pid, truth)
    told = nonzero(read_pprof((tmp_path / "truth.profile.pb.gz").read_bytes()))
    assert read_folded(files["folded"].read_bytes()) == told["inuse_space"]
    assert read_folded((tmp_path / "allocated").read_bytes()) == told["alloc_objects"]
    speedscope = read_speedscope(files["speedscope"].read_bytes())
    assert speedscope["bytes in use"] == told["inuse_space"]
    assert speedscope["objects allocated since the profile is on"] == told["alloc_objects"]
    held = sum(told["inuse_space"].values())
    assert [one.bytes for one in read_massif(files["massif"].read_bytes())] == [held]
    assert [one.bytes for one in read_massif((tmp_path / "course").read_bytes())] == [held] * 3
    (part,) = data_of(files["flamegraph"])["parts"]
    values = {one["name"]: sum(one["values"]) for one in part["quantities"]}
    assert values["bytes in use"] == held
    assert values["bytes allocated since the profile is on"] == sum(told["alloc_space"].values())


def data_of(page: Path) -> dict[str, Any]:
    """What the scripts of a page show."""
    found = re.search(
        r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL
    )
    assert found is not None
    read: dict[str, Any] = json.loads(found[1])
    return read


def test_a_page_has_the_heap_and_the_goroutines(go_heap_profile: Builder, tmp_path: Path) -> None:
    """With or without a recording, with the figures of the program's own profile."""
    truth, run = tmp_path / "truth", tmp_path / "run.gz"
    pages = {name: tmp_path / f"{name}.html" for name in ("seen", "shown", "first", "keep")}
    with started(go_heap_profile("debian"), "keep", str(KEPT), str(truth)) as pid:
        exported(pid, pages["seen"], "-f", "html", "--record", str(run), "0.2", "3")
        own_profile(pid, truth)
    told = nonzero(read_pprof((tmp_path / "truth.profile.pb.gz").read_bytes()))
    views = {"shown": (), "first": ("--at", "first"), "keep": ("--focus", "keepSession")}
    for name, words in views.items():
        page = str(pages[name])
        outcome = run_leaktrace("show", str(run), "-f", "html", *words, "--output", page)
        assert outcome.exit_code == 0, outcome.stderr
    data = {name: data_of(page) for name, page in pages.items()}
    for name in ("seen", "shown", "first"):
        heap, goroutines = data[name]["parts"]
        assert sorted(filter(None, heap["sites"]["held"])) == sorted(told["inuse_space"].values())
        # The first one, and the one that waits for signals.
        assert goroutines["sites"]["count"] == [1, 1]
    charts = [data[name]["chart"] for name in ("seen", "shown", "first")]
    assert [len(chart["time"]) for chart in charts] == [3, 3, 1]
    assert charts[0] == charts[1]
    assert charts[0]["below"]["values"] == [2, 2, 2]
    kept = data["keep"]["parts"][0]["sites"]["held"]
    assert kept
    assert sum(kept) == sum(
        value for stack, value in told["inuse_space"].items() if "keepSession" in str(stack)
    )


def test_a_file_is_written_at_the_end(go_heap_profile: Builder, tmp_path: Path) -> None:
    """After Ctrl-C, and when the process ends."""
    file = tmp_path / "heap.pb.gz"
    file.write_text("as before")
    with started(go_heap_profile("debian"), "keep", "3000", "/dev/null") as pid:
        words = ("go", "-p", str(pid), "-f", "pprof", "--output", file, "0.2")
        with Tracer(*words) as tracer:
            tracer.stderr.until(lambda line: "looked at" in line)
            assert file.read_text() == "as before"
            outcome = tracer.stop()
    assert outcome.exit_code == 0, outcome.stderr
    read = read_pprof(file.read_bytes())
    assert any("main.keepSession" in stack for stack in read.figures["inuse_space"])
    command = [str(go_heap_profile("debian")), "keep", "3000", "/dev/null"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline()
        with Tracer("go", "-p", str(process.pid), *words[3:]) as tracer:
            tracer.stderr.until(lambda line: "looked at" in line)
            process.kill()
            outcome = tracer.finish()
    assert outcome.exit_code == 0, outcome.stderr
    again = read_pprof(file.read_bytes())
    assert any("the target has ended" in comment for comment in again.comments)
    assert any("main.keepSession" in stack for stack in again.figures["inuse_space"])


def test_a_program_without_a_profile(go_heap: Builder, tmp_path: Path) -> None:
    file = tmp_path / "heap.pb.gz"
    file.write_text("as before")
    with started(go_heap("debian"), "grow", env={"GOGC": "off"}) as pid:
        words = ("go", "-p", str(pid), "-f", "pprof", "--output", str(file))
        refused = run_leaktrace(*words)
        again = run_leaktrace(*words, "3600")  # at once, not after the interval
        assert file.read_text() == "as before"
        exported(pid, file, "-f", "pprof", "--go-enable-profile=512", "0.5", "2")
    for outcome in (refused, again):
        assert outcome.exit_code != 0
        lines = outcome.stderr.splitlines()
        assert len(lines) == 2
        assert "keeps no profile of its heap" in lines[0]
        assert "--go-enable-profile" in lines[1]
    figures = read_pprof(file.read_bytes()).figures["inuse_space"]
    assert any("main.task" in stack for stack in figures)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["-f", "pprof", "-T", "5"], "-T"),
        (["-f", "json", "--profile", "heap"], "--profile"),
        (["--quantity", "in-use"], "--quantity"),
        (["-f", "pprof", "--quantity", "in-use"], "--quantity"),
        (["-f", "folded", "--profile", "goroutine", "--quantity", "in-use"], "--quantity"),
        (["-f", "massif", "--profile", "goroutine"], "-f massif"),
    ],
)
def test_options_that_do_not_fit(words: list[str], named: str) -> None:
    outcome = run_leaktrace("go", "-p", str(os.getpid()), *words)
    assert outcome.exit_code == 2
    assert named in outcome.stderr
    assert len(outcome.stderr.splitlines()) == 2
