"""leaktrace diff on recordings of a program and of its next build."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from harness.compiling import COMMON_FLAGS, Compiler
from harness.tracer import run_leaktrace

pytestmark = pytest.mark.usefixtures("require_bpf")
SESSIONS = (200, 700)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory, compiled: Compiler) -> list[Path]:
    """Of both builds, the first one first."""
    folder = tmp_path_factory.mktemp("builds")
    text = compiled.source("compared.c").read_text()
    marker = "/* A line is inserted here. */\n"
    assert marker in text
    made = []
    for number, sessions in enumerate(SESSIONS):
        build = folder / f"v{number}"
        build.mkdir()
        source = build / "compared.c"
        source.write_text(text.replace(marker, marker + "\n" * number))
        include = f"-I{compiled.source('scenario.h').parent}"
        command = ["gcc", *COMMON_FLAGS, include, f"-DSESSIONS={sessions}"]
        subprocess.run([*command, str(source), "-o", str(build / "compared")], check=True)
        recording = folder / f"v{number}.rec"
        outcome = run_leaktrace("-o", "0", "--record", recording, "-c", build / "compared")
        assert outcome.exit_code == 0, outcome.stderr
        assert f"open_session {500 * sessions} {sessions}" in outcome.stdout
        made.append(recording)
    return made


def test_the_site_that_grew_is_named(recordings: list[Path]) -> None:
    outcome = run_leaktrace("diff", *recordings, "-f", "json")
    assert outcome.exit_code == 0, outcome.stderr
    shown = json.loads(outcome.stdout)
    more = SESSIONS[1] - SESSIONS[0]
    (site,) = shown["sites"]
    assert [frame["function"] for frame in site["frames"]][:2] == ["open_session", "main"]
    assert (site["change"], site["rule"]) == ("grew", "names")
    assert site["difference"] == 500 * more == shown["difference"]
    assert site["new"]["held"]["count"] - site["base"]["held"]["count"] == more
    # Which of two calls in one function is which can't be known: their lines have moved.
    assert shown["matched"]["merged"] == 1
    text = " ".join(run_leaktrace("diff", *recordings).stdout.split())
    source = (recordings[1].parent / "v1/compared.c").read_text().splitlines()
    line = source.index("    char *session = malloc(opaque(500));") + 1
    assert f"one site explains 100% of it, open_session compared.c:{line}" in text


def test_a_run_is_the_same_as_itself(recordings: list[Path]) -> None:
    outcome = run_leaktrace("diff", recordings[0], recordings[0])
    assert outcome.exit_code == 0, outcome.stderr
    (verdict, *_) = [line for line in outcome.stdout.splitlines() if line.startswith("SAME ")]
    assert "changed" not in verdict
