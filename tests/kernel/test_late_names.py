"""Names that a recording lacks, from a debuginfod server that has the debug files of what ran."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from harness.compiling import COMMON_FLAGS, Compiler
from harness.debuginfod import serving
from harness.tracer import Outcome, run_leaktrace

pytestmark = pytest.mark.usefixtures("require_bpf")
SESSIONS = (200, 700)
MARKER = "/* A line is inserted here. */\n"
ALLOCATES = "    char *session = malloc(opaque(500));"


@dataclass(frozen=True)
class Stripped:
    """Two builds of a program that ran without their symbols, and where these are."""

    recordings: tuple[Path, Path]
    build_ids: tuple[str, str]
    debug_files: Path
    lines: tuple[int, int]  # of source, at which each build allocates


@pytest.fixture(scope="module")
def stripped(
    tmp_path_factory: pytest.TempPathFactory,
    compiled: Compiler,
    require_tool: Callable[[str], str],
) -> Stripped:
    folder = tmp_path_factory.mktemp("stripped")
    debug_files = folder / "debug"
    debug_files.mkdir()
    text = compiled.source("compared.c").read_text()
    assert MARKER in text
    recordings, build_ids, lines = [], [], []
    for number, sessions in enumerate(SESSIONS):
        build = folder / f"v{number}"
        build.mkdir()
        source, program = build / "compared.c", build / "compared"
        source.write_text(text.replace(MARKER, MARKER + "\n" * number))
        lines.append(source.read_text().splitlines().index(ALLOCATES) + 1)
        include = f"-I{compiled.source('scenario.h').parent}"
        flags = [*COMMON_FLAGS, "-Wl,--build-id", include, f"-DSESSIONS={sessions}"]
        subprocess.run(["gcc", *flags, str(source), "-o", str(program)], check=True)
        debug = debug_files / f"v{number}.debug"
        objcopy = require_tool("objcopy")
        subprocess.run([objcopy, "--only-keep-debug", program, debug], check=True)
        subprocess.run([objcopy, "--strip-all", program], check=True)
        notes = subprocess.run(["readelf", "-n", program], check=True, capture_output=True)
        build_ids.append(notes.stdout.decode().partition("Build ID: ")[2].split()[0])
        recording = folder / f"v{number}.rec"
        outcome = run_leaktrace(
            "-o", "0", "--record", recording, "-c", program, env={"DEBUGINFOD_URLS": ""}
        )
        assert outcome.exit_code == 0, outcome.stderr
        recordings.append(recording)
        program.unlink()  # another machine doesn't have it
    return Stripped(
        (recordings[0], recordings[1]),
        (build_ids[0], build_ids[1]),
        debug_files,
        (lines[0], lines[1]),
    )


@pytest.fixture(scope="module")
def server(stripped: Stripped, require_tool: Callable[[str], str]) -> Iterator[str]:
    with serving(require_tool("debuginfod"), stripped.debug_files, stripped.build_ids[1]) as url:
        yield url


def asked(url: str, cache: Path, *words: str | Path) -> Outcome:
    environment = {"DEBUGINFOD_URLS": url, "XDG_CACHE_HOME": str(cache), "no_proxy": "127.0.0.1"}
    return run_leaktrace(*words, env=environment)


def frames(outcome: Outcome, sessions: int) -> list[dict[str, Any]]:
    """Those of the site that the program says has allocated so often."""
    assert outcome.exit_code == 0, outcome.stderr
    (site,) = [
        one
        for one in json.loads(outcome.stdout)["sites"]
        if (one["bytes"], one["count"]) == (500 * sessions, sessions)
    ]
    found: list[dict[str, Any]] = site["frames"]
    return found


def test_show_adds_names_and_lines(stripped: Stripped, server: str, tmp_path: Path) -> None:
    words = ("show", stripped.recordings[0], "-f", "json", "-T", "100")
    before = frames(asked(server, tmp_path, *words), SESSIONS[0])
    assert before[0]["function"] is None
    assert not list(tmp_path.iterdir())  # nothing was fetched, as nobody asked for it
    outcome = asked(server, tmp_path, *words, "--debuginfod")
    after = frames(outcome, SESSIONS[0])
    assert [frame["function"] for frame in after[:2]] == ["open_session", "main"]
    assert after[0]["line"] == stripped.lines[0]
    kept = ("address", "module", "module_offset", "build_id")
    assert [[frame[key] for key in kept] for frame in before] == [
        [frame[key] for key in kept] for frame in after
    ]
    assert after[0]["build_id"] == stripped.build_ids[0]
    # What was fetched is kept: the server isn't needed again.
    again = asked("http://127.0.0.1:1", tmp_path, *words, "--debuginfod")
    assert frames(again, SESSIONS[0]) == after


def test_show_by_function_has_them(stripped: Stripped, server: str, tmp_path: Path) -> None:
    words = ("show", stripped.recordings[1], "--by", "function", "--debuginfod")
    outcome = asked(server, tmp_path, *words)
    assert outcome.exit_code == 0, outcome.stderr
    assert "open_session [compared]" in outcome.stdout


def test_diff_matches_builds_by_these_names(
    stripped: Stripped, server: str, tmp_path: Path
) -> None:
    words = ("diff", *stripped.recordings, "-f", "json")
    before = json.loads(asked(server, tmp_path, *words).stdout)
    assert before["matched"]["names"] == 0
    outcome = asked(server, tmp_path, *words, "--debuginfod")
    assert outcome.exit_code == 0, outcome.stderr
    shown = json.loads(outcome.stdout)
    (site,) = shown["sites"]
    assert [frame["function"] for frame in site["frames"]][:2] == ["open_session", "main"]
    assert (site["change"], site["rule"]) == ("grew", "names")
    assert site["difference"] == 500 * (SESSIONS[1] - SESSIONS[0])


def test_diff_takes_files_of_several_directories(stripped: Stripped, tmp_path: Path) -> None:
    words: list[str | Path] = ["diff", *stripped.recordings, "-f", "json"]
    for number, build_id in enumerate(stripped.build_ids):
        root = tmp_path / f"root{number}"
        place = root / "usr/lib/debug/.build-id" / build_id[:2] / f"{build_id[2:]}.debug"
        place.parent.mkdir(parents=True)
        place.write_bytes((stripped.debug_files / f"v{number}.debug").read_bytes())
        words += ["--sysroot", root]
    outcome = asked("", tmp_path, *words)
    assert outcome.exit_code == 0, outcome.stderr
    (site,) = json.loads(outcome.stdout)["sites"]
    assert site["rule"] == "names"
    assert site["difference"] == 500 * (SESSIONS[1] - SESSIONS[0])


def test_what_no_server_has_is_said(stripped: Stripped, tmp_path: Path) -> None:
    """And what was recorded is shown."""
    words = ("show", stripped.recordings[0], "-f", "json", "-T", "100", "--debuginfod")
    outcome = asked("http://127.0.0.1:1", tmp_path, *words)
    assert frames(outcome, SESSIONS[0])[0]["function"] is None
    (said,) = [line for line in outcome.stderr.splitlines() if "compared: debuginfod" in line]
    assert "127.0.0.1" in said


def test_no_server_is_named(stripped: Stripped, tmp_path: Path) -> None:
    for words in (("show", stripped.recordings[0]), ("diff", *stripped.recordings)):
        outcome = asked("", tmp_path, *words, "--debuginfod")
        assert (outcome.exit_code, outcome.stdout) == (2, "")
        assert len(outcome.stderr.splitlines()) == 2
        assert "DEBUGINFOD_URLS" in outcome.stderr
