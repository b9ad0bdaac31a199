"""The three leaks of Go in README.md, replayed: each command prints the lines that README.md shows,
but for figures."""

from __future__ import annotations

import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from harness import story
from harness.go_programs import build_go_program
from harness.tracer import REPOSITORY, Outcome, run_leaktrace

pytestmark = pytest.mark.usefixtures("require_bpf")

HEADING = "## Go: which of the three leaks"
WAYS = ("ticker", "c", "heap")  # in the order of the story
_FIGURE = re.compile(r"[\d,]*\.?\d+(?: [KMG]iB| B)?")


def without_figures(text: str) -> str:
    """Words that follow from the program, without places of files, rates and sizes."""
    text = re.sub(r"\S*/(?=goleaks/main\.go)|string/string/", "", text)
    text = re.sub(r" \d+ B(?=[/ ])", " 1", text)
    return " ".join(_FIGURE.sub("#", text).split())


def is_certain(line: str) -> bool:
    """Whether a line is so on every machine: not one of the C library's."""
    return line.strip() != "…" and "strdup" not in line


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    source = REPOSITORY / "examples/goleaks/main.go"
    program = build_go_program(tmp_path_factory.mktemp("go") / "goleaks", source=source)
    with ExitStack() as running, ThreadPoolExecutor() as pool:
        jobs = {}
        for way, step in zip(WAYS, story.steps(HEADING)[1:], strict=True):
            process = running.enter_context(
                subprocess.Popen([program, way], stdout=subprocess.PIPE)
            )
            running.callback(process.kill)
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            words = step.command.replace("$(pidof goleaks)", str(process.pid)).split()
            assert words[0] == "leaktrace"
            assert words[-2:] == ["2", "5"]
            jobs[way] = pool.submit(run_leaktrace, *words[1:-2], "1", "5")
        return {way: job.result() for way, job in jobs.items()}


@pytest.mark.parametrize("way", WAYS)
def test_the_lines_of_readme_are_printed(way: str, outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes[way]
    assert outcome.exit_code == 0, outcome.stderr
    shown = story.steps(HEADING)[1 + WAYS.index(way)].shown
    printed = without_figures(outcome.stdout)
    wanted = [without_figures(line) for line in shown if is_certain(line)]
    assert wanted
    missing = [line for line in wanted if line not in printed]
    assert not missing, outcome.stdout


def test_lines_of_the_source_are_those_of_readme() -> None:
    """The numbers in README.md are those of the calls."""
    source = (REPOSITORY / "examples/goleaks/main.go").read_text().splitlines()
    for number, text in ((15, "strdup"), (39, "go watch"), (45, "parse_header"), (50, "make")):
        assert text in source[number - 1]
