"""Names and lines that are added to a recording from files, which must be those that ran."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from rendered_samples import REPORTS

from leaktrace.errors import EnvironmentUnfitError, UsageError
from leaktrace.model import Report
from leaktrace.options import LateNamesOptions
from leaktrace.recording.late_names import LateNames
from leaktrace.site import Frame, Stack, StackEnd

SOURCE = """\
int other(int n) { return n + 1; }
int wanted(int n)
{
    return other(n) + 1;
}
int main(void) { return wanted(1); }
"""


def built(folder: Path, *options: str) -> Path:
    path = folder / "opt" / "program"
    path.parent.mkdir(parents=True)
    (folder / "program.c").write_text(SOURCE)
    words: list[str | Path] = [
        "cc",
        "-g",
        "-O0",
        "-Wl,--build-id",
        *options,
        "-o",
        path,
        folder / "program.c",
    ]
    subprocess.run(words, check=True)
    return path


def sysroots(*folders: Path) -> LateNamesOptions:
    return LateNamesOptions(folders)


def said(words: list[str | Path]) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def recorded(tmp_path: Path) -> Report:
    """A report of a stripped program: what readelf and nm say of the one that has symbols."""
    path = built(tmp_path / "ran")
    notes = said(["readelf", "-n", path])
    build_id = notes.partition("Build ID: ")[2].split()[0]
    (line,) = (one for one in said(["nm", path]).splitlines() if one.endswith(" T wanted"))
    start = int(line.split()[0], 16)
    # Behind the call: "call other" is the first one in it.
    code = said(["objdump", "-d", "--disassemble=wanted", path]).splitlines()
    after = next(at for at, one in enumerate(code) if "call" in one and "other" in one) + 1
    vaddr = int(code[after].split(":")[0], 16)
    frame = Frame(0x5555_0000 + vaddr, None, 0, "/opt/program", vaddr, build_id, unknown="stripped")
    stack = Stack((frame,), StackEnd.COMPLETE)
    report = REPORTS["quiet"]
    site = replace(REPORTS["busy"].sites[0], stack=stack)
    assert 0 < vaddr - start < 64
    return replace(report, sites=(site,))


def test_the_file_that_ran_has_the_names(recorded: Report, tmp_path: Path) -> None:
    names = LateNames(sysroots(tmp_path / "ran"))
    (frame,) = names.added_to(recorded).sites[0].stack.frames
    (before,) = recorded.sites[0].stack.frames
    assert (frame.function, frame.source and frame.source.line) == ("wanted", 4)
    assert frame.offset > 0
    assert (frame.address, frame.module, frame.build_id) == (
        before.address,
        before.module,
        before.build_id,
    )
    assert names.problems == []


def test_a_debug_file_has_them_too(recorded: Report, tmp_path: Path) -> None:
    build_id = recorded.sites[0].stack.frames[0].build_id
    assert build_id is not None
    folder = tmp_path / "debug" / "usr/lib/debug/.build-id" / build_id[:2]
    folder.mkdir(parents=True)
    debug = folder / f"{build_id[2:]}.debug"
    program = tmp_path / "ran" / "opt" / "program"
    subprocess.run(["objcopy", "--only-keep-debug", program, debug], check=True)
    (frame,) = LateNames(sysroots(tmp_path / "debug")).added_to(recorded).sites[0].stack.frames
    assert (frame.function, frame.source and frame.source.line) == ("wanted", 4)


def test_another_build_is_not_used(recorded: Report, tmp_path: Path) -> None:
    built(tmp_path / "other", "-DOTHER", "-O2")
    names = LateNames(sysroots(tmp_path / "other"))
    assert names.added_to(recorded) == recorded
    (problem,) = names.problems
    assert problem == "/opt/program is another build than the one that was recorded"


def test_of_several_directories_the_one_with_this_build_is_used(
    recorded: Report, tmp_path: Path
) -> None:
    built(tmp_path / "other", "-DOTHER", "-O2")
    names = LateNames(sysroots(tmp_path / "other", tmp_path / "ran"))
    (frame,) = names.added_to(recorded).sites[0].stack.frames
    assert (frame.function, frame.source and frame.source.line) == ("wanted", 4)
    assert names.problems == []


def test_servers_are_wanted_and_none_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEBUGINFOD_URLS", " ")
    with pytest.raises(UsageError, match="DEBUGINFOD_URLS"):
        LateNames(LateNamesOptions(debuginfod=True))


def test_names_that_were_recorded_stay(recorded: Report, tmp_path: Path) -> None:
    (frame,) = recorded.sites[0].stack.frames
    stack = Stack((replace(frame, function=None, build_id=None),), StackEnd.COMPLETE)
    without_id = replace(recorded, sites=(replace(recorded.sites[0], stack=stack),))
    names = LateNames(sysroots(tmp_path / "ran"))
    assert names.added_to(without_id) == without_id
    assert names.added_to(REPORTS["busy"]) == REPORTS["busy"]


@pytest.mark.parametrize("module", ["../../etc/passwd", "/", "/opt", "", "/opt/\0program"])
def test_hostile_paths(module: str, recorded: Report, tmp_path: Path) -> None:
    (frame,) = recorded.sites[0].stack.frames
    stack = Stack((replace(frame, module=module),), StackEnd.COMPLETE)
    hostile = replace(recorded, sites=(replace(recorded.sites[0], stack=stack),))
    assert LateNames(sysroots(tmp_path / "ran")).added_to(hostile) == hostile


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentUnfitError, match="--sysroot"):
        LateNames(sysroots(tmp_path / "none"))
