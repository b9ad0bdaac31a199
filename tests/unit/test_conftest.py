"""LEAKTRACE_REQUIRE_ALL=1 turns skips into failures, but for those that are allowed."""

from __future__ import annotations

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
    shutil.copy(repository / "tests/conftest.py", tmp_path)
    (tmp_path / "pytest.ini").touch()
    (tmp_path / "test_some.py").write_text(f"{TESTS}\n{module}\n")
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(tmp_path)],
        env={**os.environ, "LEAKTRACE_REQUIRE_ALL": require_all},
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert f" {summary} in " in result.stdout.splitlines()[-1]
    if require_all == "1":
        assert result.returncode != 0
        assert "LEAKTRACE_REQUIRE_ALL is set, and this was skipped" in result.stdout
