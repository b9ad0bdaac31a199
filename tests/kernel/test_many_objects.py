"""A process with more objects than leaktrace may have open files: every frame has its name, or the
report says why not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from harness.compiling import Compiler
from harness.length import repetitions
from harness.reports import Report
from harness.target import Target
from harness.tracer import NEVER, ONE_REPORT, Tracer
from harness.wording import names, notes_naming, the_note

pytestmark = pytest.mark.usefixtures("require_bpf")

COUNT = 600
FEW = repetitions(250, COUNT)  # for where no more than 200 files may be open
LIMIT = "ulimit -n"  # what the note names


@pytest.fixture(scope="module")
def folder(compiled: Compiler, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The libraries: one build, with another build-id and another name of its function each."""
    flags = ("-shared", "-fPIC", "-g0", "-Wl,--build-id=0x00000000abababababab")
    image = compiled("small_object.c", *flags).read_bytes()
    assert image.count(b"allocate_0000") >= 1
    build_id = bytes.fromhex("00000000abababababab")
    assert image.count(build_id) == 1
    folder = tmp_path_factory.mktemp("objects")
    for number in range(COUNT):
        named = image.replace(b"allocate_0000", b"allocate_%04d" % number)
        own = named.replace(build_id, number.to_bytes(4, "big") + build_id[4:])
        (folder / f"object_{number:04}.so").write_bytes(own)
    return folder


def innermost(report: Report) -> set[str | None]:
    return {site.functions[0] for site in report.sites_under("scenario_each")}


def names_of(count: int) -> set[str | None]:
    return {f"allocate_{number:04}" for number in range(count)}


def traced(
    compiled: Compiler,
    folder: Path,
    prefix: list[str],
    before: Callable[[], object] = lambda: None,
    *,
    count: int = FEW,
    is_alive: bool = True,
) -> Report:
    """`count` objects are loaded. `before` is called between the allocations and the report;
    `is_alive`: the process is alive until the report."""
    with Target([compiled("many_objects.c", "-ldl")]) as target:
        target.await_ready()
        target.do(f"load {folder} {count}")
        with Tracer("-p", str(target.pid), *ONE_REPORT, NEVER, prefix=prefix) as tracer:
            tracer.await_armed()
            target.do("call 100")
            before()
            if is_alive:
                outcome = tracer.stop()
            assert target.end() == 0
            if not is_alive:
                outcome = tracer.finish()
    assert outcome.exit_code == 0, outcome.stderr
    (report,) = outcome.reports
    assert report.under("scenario_each").count == count
    assert report.losses == {}
    assert {site.raw["stack_end"] for site in report.sites_under("scenario_each")} == {"complete"}
    return report


def test_as_many_as_the_usual_limit_allows(
    compiled: Compiler, folder: Path, require_tool: Callable[[str], str]
) -> None:
    """1,024 is the usual soft limit; the hard one is higher."""
    prefix = [require_tool("prlimit"), "--nofile=1024:4096"]
    report = traced(compiled, folder, prefix, count=COUNT)
    assert innermost(report) == names_of(COUNT)
    assert notes_naming(report, LIMIT) == []


def test_more_than_the_hard_limit_allows(
    compiled: Compiler, folder: Path, require_tool: Callable[[str], str]
) -> None:
    prefix = [require_tool("prlimit"), "--nofile=200:200"]
    report = traced(compiled, folder, prefix)
    assert innermost(report) == names_of(FEW)
    the_note(report, LIMIT, 200)


def test_more_than_the_limit_allows_and_the_process_ends(
    compiled: Compiler, folder: Path, require_tool: Callable[[str], str]
) -> None:
    """What was closed is opened by its path then."""
    prefix = [require_tool("prlimit"), "--nofile=200:200"]
    report = traced(compiled, folder, prefix, is_alive=False)
    assert innermost(report) == names_of(FEW)


def test_a_file_replaced_while_it_was_closed_gives_no_name(
    compiled: Compiler, folder: Path, tmp_path: Path, require_tool: Callable[[str], str]
) -> None:
    """Another build replaces the first library, which is closed by the time its name is needed.
    Then its function is unknown or right, never the other build's."""
    copies = tmp_path / "copies"
    copies.mkdir()
    for path in folder.iterdir():
        (copies / path.name).write_bytes(path.read_bytes())
    first = copies / "object_0000.so"

    def replace() -> None:
        other = first.read_bytes().replace(b"allocate_0000", b"wrong_name_00")
        first.unlink()
        first.write_bytes(other)

    prefix = [require_tool("prlimit"), "--nofile=200:200"]
    report = traced(compiled, copies, prefix, replace)
    assert innermost(report) - {None, "allocate_0000"} == names_of(FEW) - {"allocate_0000"}
    for site in report.sites_under("scenario_each"):
        if site.functions[0] is None:
            assert names(site.frames[0].unknown or "", "object_0000.so", "closed")


def test_a_command_gets_the_limit_that_leaktrace_was_started_with(
    require_tool: Callable[[str], str],
) -> None:
    prefix = [require_tool("prlimit"), "--nofile=777:4096"]
    command = ["--", "sh", "-c", "ulimit -Sn; ulimit -Hn"]
    with Tracer(*ONE_REPORT, *command, prefix=prefix) as tracer:
        outcome = tracer.finish()
    assert outcome.exit_code == 0, outcome.stderr
    assert outcome.stdout.splitlines()[:2] == ["777", "4096"]
