"""LEAKTRACE_REQUIRE_ALL=1 turns skips into failures, except those that are allowed."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import pytest

def test_wants_a_tool(require_tool):
    require_tool("no-such-program")

@pytest.mark.may_skip("not everywhere")
def test_may_be_skipped():
    pytest.skip("not here")

@pytest.mark.xfail(reason="known")
def test_fails_as_known():
    assert False

def test_passes():
    pass
"""


def run_pytest(
    directory: Path, repository: Path, env: dict[str, str], *arguments: str
) -> subprocess.CompletedProcess[str]:
    """Run the tests in a directory, with the conftest.py of this one."""
    shutil.copy(repository / "tests/conftest.py", directory)
    (directory / "pytest.ini").touch()
    ours = {name: value for name, value in os.environ.items() if "PYTEST" not in name}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments, str(directory)],
        env={**ours, **env},
        capture_output=True,
        text=True,
        check=False,
        cwd=directory,
    )


@pytest.mark.parametrize(
    ("require_all", "module", "summary"),
    [
        ("", "", "1 passed, 2 skipped, 1 xfailed"),
        ("0", "", "1 passed, 2 skipped, 1 xfailed"),
        ("1", "", "1 failed, 1 passed, 1 skipped, 1 xfailed"),
        ("", "pytest.importorskip('no_such_module')", "1 skipped"),
        ("1", "pytest.importorskip('no_such_module')", "1 error"),
    ],
)
def test_skips(
    tmp_path: Path, repository: Path, require_all: str, module: str, summary: str
) -> None:
    (tmp_path / "test_some.py").write_text(f"{TESTS}\n{module}\n")
    result = run_pytest(tmp_path, repository, {"LEAKTRACE_REQUIRE_ALL": require_all})
    assert f" {summary} in " in result.stdout.splitlines()[-1]
    if require_all == "1":
        assert result.returncode != 0
        assert "LEAKTRACE_REQUIRE_ALL is set, and this was skipped" in result.stdout


TURNS = """
import pathlib, time, pytest

FILE = pathlib.Path(__file__).stem

@pytest.mark.parametrize("number", range(6))
def test_crowd(number):
    stay("crowd")

@pytest.mark.alone("it would see the others")
@pytest.mark.parametrize("number", range(3))
def test_alone(number):
    stay(f"alone {FILE}")

def stay(name):
    begin = time.monotonic()
    time.sleep(0.05)
    with open("stays", "a") as stays:
        print(begin, time.monotonic(), name, file=stays)
"""


def test_a_test_that_must_be_alone_is(tmp_path: Path, repository: Path) -> None:
    for number in range(4):
        (tmp_path / f"test_{number}.py").write_text(TURNS)
    result = run_pytest(tmp_path, repository, {}, "-n", "4", "--dist", "loadfile")
    assert result.returncode == 0, result.stdout
    words = [line.split(" ", 2) for line in (tmp_path / "stays").read_text().splitlines()]
    stays = sorted((float(begin), float(end), name) for begin, end, name in words)
    assert len(stays) == 36
    overlaps = [
        (one[2], other[2])
        for one, other in itertools.combinations(stays, 2)
        if one[0] < other[1] and other[0] < one[1]
    ]
    assert ("crowd", "crowd") in overlaps
    assert not any(name.startswith("alone") for names in overlaps for name in names)
    # Those of one file run in a row.
    in_a_row = [name for name, _ in itertools.groupby(name for _, _, name in stays)]
    assert sorted(name for name in in_a_row if name != "crowd") == [
        f"alone test_{number}" for number in range(4)
    ]
