"""leaktrace show --site: one site, by its id or the first digits of it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from harness.tracer import run_leaktrace
from sample_families import BY_PROCESS
from sample_reports import BUSY, PARSE_SITE
from written_recordings import write

ALIKE = replace(PARSE_SITE, id="6f1d2b0000000000", bytes=4096, count=1)
LATE = replace(PARSE_SITE, id="abcdef0123456789", bytes=8192, count=2)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    first = replace(BUSY, sites=(PARSE_SITE, ALIKE), site_count=2, top=1, number=1)
    later = replace(first, sites=(PARSE_SITE, LATE), number=2, elapsed_s=20.0)
    return write(tmp_path_factory.mktemp("runs") / "run.rec", [first, later])


@pytest.mark.parametrize("digits", ["6f1d2b", "6f1d2b0000000000", "6F1D2B", "6f1d2b0000"])
def test_the_first_digits_are_enough(run: Path, digits: str) -> None:
    outcome = run_leaktrace("show", run, "--at", "1", "--site", digits, "-f", "json")
    assert outcome.exit_code == 0, outcome.stderr
    assert [site["id"] for site in json.loads(outcome.stdout)["sites"]] == [ALIKE.id]


def test_the_id_that_text_shows_is_taken(run: Path) -> None:
    text = run_leaktrace("show", run, "--at", "1", "-T", "2", "--by", "site").stdout
    shown = re.findall(r"^ .*%  ([0-9a-f]+)$", text, re.MULTILINE)
    assert len(shown) == 2
    for digits in shown:
        outcome = run_leaktrace("show", run, "--at", "1", "--site", digits, "-f", "json")
        (site,) = json.loads(outcome.stdout)["sites"]
        assert site["id"].startswith(digits)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--at", "1", "--site", "6f1d2"), "ambiguous: 6f1d2a90c41b7e55, 6f1d2b0000000000"),
        (("--at", "1", "--site", "abcdef"), "no site of report 1"),
        (("--from", "1", "--site", "77"), "no site of reports 1 to 2"),
        (("--site", "parse"), "no id of a site"),
        (("--site", ""), "no id of a site"),
        (("--site", "6f1d2a90c41b7e550"), "no id of a site"),
        (("--site", "6f1d2a", "-f", "memleak"), "-f memleak has no --site"),
    ],
)
def test_errors(run: Path, words: tuple[str, ...], says: str) -> None:
    outcome = run_leaktrace("show", run, *words)
    assert (outcome.exit_code, outcome.stdout) == (2, "")
    assert says in outcome.stderr
    assert outcome.stderr.splitlines()[-1].startswith("  hint: ")


def test_of_several_reports_those_from_the_first_with_it(run: Path) -> None:
    outcome = run_leaktrace("show", run, "--from", "1", "--site", "abc", "-f", "json")
    assert outcome.exit_code == 0, outcome.stderr
    (report,) = map(json.loads, outcome.stdout.splitlines())
    assert (report["number"], [site["id"] for site in report["sites"]]) == (2, [LATE.id])


def test_views_and_files_of_one_site(run: Path) -> None:
    outcome = run_leaktrace("show", run, "--site", "abcdef", "--by", "function", "-f", "json")
    assert json.loads(outcome.stdout)["shown"] == LATE.bytes
    text = run_leaktrace("show", run, "--site", "abcdef", "--by", "function").stdout
    assert "(--site)" in text
    folded = run_leaktrace("show", run, "--site", "abcdef", "-f", "folded").stdout
    assert [line.split()[-1] for line in folded.splitlines()] == [str(LATE.bytes)]
    plain = run_leaktrace("show", run, "--site", "abcdef").stdout
    assert "8.0 KiB" in plain
    assert "6f1d2a" not in plain


def test_in_a_recording_by_process_it_is_the_only_one_of_each(tmp_path: Path) -> None:
    path = write(tmp_path / "run.rec", [BY_PROCESS])
    outcome = run_leaktrace("show", path, "--site", PARSE_SITE.id[:6], "-f", "json")
    assert outcome.exit_code == 0, outcome.stderr
    parts = json.loads(outcome.stdout)["by_process"]
    listed = [[site["id"] for site in part["sites"]] for part in parts]
    assert listed == [[], [PARSE_SITE.id], [PARSE_SITE.id]]
    text = run_leaktrace("show", path, "--site", PARSE_SITE.id[:6]).stdout
    assert "parse_header" in text
    assert "cache" not in text
