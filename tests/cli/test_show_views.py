"""leaktrace show --by, --quantity, --focus, --ignore, as a user runs it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from harness.tracer import run_leaktrace
from sample_diffs import BASE, LATER
from sample_sizes import sized
from written_recordings import INFO, write

SHOWN_BY = ("site", "function", "module", "line", "process", "size", "tree", "callers")
TOTAL = sum(site.bytes for site in LATER.sites)
_REST_OF_PARSE = LATER.sites[0].bytes - 64 * 4_096 - 1_000 * (LATER.sites[0].count - 4_097)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "run.rec"
    parse, cache, tokens = LATER.sites
    with_sizes = (
        sized(parse, [64] * 4_096 + [1_000] * (parse.count - 4_097) + [_REST_OF_PARSE]),
        sized(cache, [cache.bytes]),
        sized(tokens, [3_000] * tokens.count),
    )
    assert sum(site.bytes for site in with_sizes) == TOTAL
    later = replace(LATER, sites=with_sizes)
    return write(path, [BASE, later], marks=[None, "released"])


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
        (("--by", "size", "-f", "folded"), "-f folded has no --by"),
        (("--by", "size", "--quantity", "freed"), "--quantity freed can't be used with --by size"),
        (("--by", "thread"), "which thread"),
        (("--by", "color"), "--by"),
    ],
)
def test_errors(run: Path, words: tuple[str, ...], says: str) -> None:
    outcome = run_leaktrace("show", run, *words)
    assert outcome.exit_code == 2, outcome.stderr
    assert says in outcome.stderr
    assert len(outcome.stderr.splitlines()) == 2


def test_sizes_have_bytes_and_blocks(run: Path) -> None:
    outcome = run_leaktrace("show", run, "--by", "size", "--quantity", "in-use-blocks")
    assert outcome.exit_code == 0, outcome.stderr
    lines = [" ".join(line.split()) for line in outcome.stdout.splitlines()]
    assert "256.0 KiB <1% 4,096 13% 1 64 B to 127 B" in lines
    assert "1.9 MiB 6% 1 <1% 1 1 MiB to below 2 MiB" in lines
    assert all(len(line) <= 80 for line in outcome.stdout.splitlines())


def test_a_report_without_sizes_is_refused(run: Path) -> None:
    outcome = run_leaktrace("show", run, "--by", "size", "--at", "first")
    assert (outcome.exit_code, outcome.stdout) == (2, "")
    _which, says, hint = outcome.stderr.splitlines()
    assert f"report {BASE.number} can't be shown by size" in says
    assert "hint: " in hint


def test_a_filter_that_matches_nothing_says_so(run: Path) -> None:
    outcome = run_leaktrace("show", run, "--by", "function", "--focus", "no_such_function")
    assert outcome.exit_code == 0, outcome.stderr
    assert "no site matches" in outcome.stdout
    assert "all sites: " in outcome.stdout
