"""leaktrace show --by, --quantity, --focus, --ignore, as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from harness.tracer import run_leaktrace
from sample_diffs import BASE, LATER
from written_recordings import INFO, write

SHOWN_BY = ("site", "function", "module", "line", "process", "tree", "callers")
TOTAL = sum(site.bytes for site in LATER.sites)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "run.rec"
    return write(path, [BASE, LATER], marks=[None, "released"])


@pytest.mark.parametrize("by", SHOWN_BY)
def test_every_view_has_all_of_it(run: Path, by: str) -> None:
    outcome = run_leaktrace("show", run, "--by", by, "-f", "json", "--top", "2")
    assert outcome.exit_code == 0, outcome.stderr
    shown = json.loads(outcome.stdout)
    assert (shown["by"], shown["number"], shown["shown"]) == (by, LATER.number, TOTAL)
    if by in ("tree", "callers"):
        assert sum(one["value"] for one in shown["nodes"] if one["depth"] == 0) == TOTAL
    else:
        assert sum(row["own"] for row in shown["rows"]) + shown["others"]["own"] == TOTAL


def test_filters_in_text_and_files(run: Path) -> None:
    outcome = run_leaktrace("show", run, "--by", "tree", "--focus", "copy_token", "--at", "first")
    assert outcome.exit_code == 0, outcome.stderr
    assert "shown: 12.0 MiB of 14.0 MiB at 1 of 3 sites (--focus, --ignore)" in outcome.stdout
    assert "main [httpd] > read_request [httpd]" in outcome.stdout
    assert all(len(line) <= 80 for line in outcome.stdout.splitlines())
    folded = run_leaktrace(
        "show", run, "--ignore", "copy_token", "-f", "folded", "--quantity", "in-use-blocks"
    )
    assert folded.exit_code == 0, folded.stderr
    assert "copy_token" not in folded.stdout
    assert "main;read_request;parse_header 100\n" in folded.stdout


def test_a_page_has_the_marks_and_where_it_was_recorded(run: Path) -> None:
    outcome = run_leaktrace("show", run, "-f", "html")
    assert outcome.exit_code == 0, outcome.stderr
    assert "released" in outcome.stdout
    assert f"leaktrace {INFO.version}" in outcome.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--focus", "["), "is no regular expression"),
        (("--min-share", "5"), "--min-share is for trees"),
        (("--by", "tree", "-f", "pprof"), "-f pprof has no --by"),
        (("--focus", "a", "-f", "memleak"), "-f memleak has no --focus"),
        (("--quantity", "freed", "-f", "massif"), "-f massif has no --quantity"),
    ],
)
def test_errors(run: Path, words: tuple[str, ...], says: str) -> None:
    outcome = run_leaktrace("show", run, *words)
    assert outcome.exit_code == 2, outcome.stderr
    assert says in outcome.stderr
    assert len(outcome.stderr.splitlines()) == 2


def test_a_filter_that_matches_nothing_says_so(run: Path) -> None:
    outcome = run_leaktrace("show", run, "--by", "function", "--focus", "no_such_function")
    assert outcome.exit_code == 0, outcome.stderr
    assert "no site matches" in outcome.stdout
    assert "all sites: " in outcome.stdout
