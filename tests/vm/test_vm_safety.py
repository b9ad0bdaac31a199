"""tests/safety on other kernels."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from harness.tracer import REPOSITORY
from vm.guest import Guest

FILES = sorted((REPOSITORY / "tests/safety").glob("test_*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_safety(guest: Guest, file: Path) -> None:
    outcome = guest.run(
        sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
        "-c", REPOSITORY / "pyproject.toml", file,
    )  # fmt: skip
    print(outcome.stdout)
    assert outcome.exit_code == 0, outcome.stdout + outcome.stderr
