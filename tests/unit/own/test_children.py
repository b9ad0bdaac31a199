"""Child processes import what the tracer imports, however it was started."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import leaktrace
from leaktrace.own.children import child_environment


def imported_by_child(folder: Path) -> str:
    """The file that a child process imports as leaktrace, started in this folder."""
    code = "import leaktrace; print(leaktrace.__file__)"
    command = [sys.executable, "-S", "-P", "-c", code]  # -S: without its own site-packages
    done = subprocess.run(
        command, env=child_environment(), cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_a_child_imports_this_package(tmp_path: Path) -> None:
    assert imported_by_child(tmp_path) == leaktrace.__file__


def test_a_child_imports_this_package_when_sys_path_does_not_lead_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = str(Path(leaktrace.__file__).parent.parent)
    monkeypatch.setattr("sys.path", [path for path in sys.path if path != parent])
    assert imported_by_child(tmp_path) == leaktrace.__file__


def test_a_child_searches_in_the_same_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", ["/first", "", "/second"])
    assert child_environment()["PYTHONPATH"].startswith("/first:/second:")
