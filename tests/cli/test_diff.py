"""leaktrace diff as a user runs it, on recordings of reports that were built by hand."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from harness.tracer import run_leaktrace
from sample_diffs import BASE, LATER, OTHER_BUILD
from written_recordings import write

from leaktrace.cli.moments import parse_when, reports_at
from leaktrace.errors import UsageError

BETWEEN = replace(LATER, number=50, elapsed_s=100.0)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("runs") / "a@b.rec.gz", [BASE, BETWEEN, LATER])


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("runs") / "other.rec", [OTHER_BUILD])


def test_two_moments_and_two_runs(run: Path, other: Path) -> None:
    moments = run_leaktrace("diff", f"{run}@first", run)
    assert moments.exit_code == 0, moments.stderr
    assert "MORE +17.4 MiB in 30m00s" in moments.stdout
    assert all(len(line) <= 80 for line in moments.stdout.splitlines() if str(run) not in line)
    runs = run_leaktrace("diff", run, other, "-f", "json", "--top", "1")
    shown = json.loads(runs.stdout)
    assert shown["matched"]["names"] == 2
    assert shown["difference"] == OTHER_BUILD.outstanding.bytes - LATER.outstanding.bytes
    still = run_leaktrace("diff", f"{run}@first", f"{run}@50", "--still-at", "last")
    assert still.exit_code == 0, still.stderr
    assert "STILL THERE" in still.stdout


@pytest.mark.parametrize(
    ("which", "number"),
    [("", 364), ("@first", 3), ("@last", 364), ("@peak", 50), ("@50", 50), ("@16s", 3),
     ("@100s", 50), ("@1h", 364), ("@15s", 3)],
)  # fmt: skip
def test_a_report_of_a_recording(run: Path, which: str, number: int) -> None:
    (report,), problems = reports_at([parse_when(f"{run}{which}")])
    assert report.number == number
    assert problems == []


@pytest.mark.parametrize(
    ("which", "says"),
    [
        ("@4", "no report 4"),
        ("@1s", "no report until 1s"),
        ("@deploy", "no time and no mark"),
        ("@" + "9" * 5000, "no report 9999"),
        ("@", "names no report"),
    ],
    ids=["number", "time", "mark", "long", "none"],
)
def test_no_such_report(run: Path, which: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        reports_at([parse_when(f"{run}{which}")])
    assert caught.value.hint


def errors() -> Iterable[tuple[tuple[str, ...], int, str]]:
    yield ("RUN",), 2, "two reports are compared"
    yield ("RUN", "RUN", "RUN"), 2, "unexpected words"
    yield ("RUN", "/nowhere"), 1, "can't read /nowhere"
    yield ("RUN", "/etc/passwd"), 1, "/etc/passwd is not a recording"
    yield ("RUN", "RUN", "--focus", "(a"), 2, "is no regular expression"
    yield ("RUN", "RUN", "--quantity", "growth"), 2, "growth"
    yield ("RUN", "OTHER", "--still-at", "last"), 2, "these are two"
    yield ("RUN@last", "RUN@first", "--still-at", "last"), 2, "not in order"
    yield ("RUN", "RUN", "--still-at", "last", "-f", "folded"), 2, "bounds"


@pytest.mark.parametrize(("words", "code", "says"), list(errors()))
def test_errors(run: Path, other: Path, words: tuple[str, ...], code: int, says: str) -> None:
    given = [word.replace("RUN", str(run)).replace("OTHER", str(other)) for word in words]
    outcome = run_leaktrace("diff", *given)
    assert outcome.exit_code == code, outcome.stderr
    assert says in outcome.stderr
    assert len(outcome.stderr.splitlines()) == 2
    assert outcome.stdout == ""


def test_files_for_other_tools(run: Path, tmp_path: Path) -> None:
    folded = run_leaktrace("diff", f"{run}@first", run, "-f", "folded")
    assert folded.exit_code == 0, folded.stderr
    for line in folded.stdout.splitlines():
        stack, base, new = line.rsplit(" ", 2)
        assert stack and int(base) != int(new)
    page = tmp_path / "diff.html"
    outcome = run_leaktrace("diff", f"{run}@first", run, "-f", "flamegraph", "--output", page)
    assert outcome.exit_code == 0, outcome.stderr
    assert page.read_bytes().startswith(b"<!")
