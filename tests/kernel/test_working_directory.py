"""leaktrace runs as root, in any directory: no file there may be used as a part of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("require_bpf")

TRAPS = ("json", "socket", "ctypes", "array", "symbolic", "numpy")


def test_modules_in_the_working_directory_are_not_run(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    for name in TRAPS:
        (tmp_path / f"{name}.py").write_text(f"open({str(sprung)!r}, 'a').write({name!r})\n")
    (tmp_path / "bcc").mkdir()
    (tmp_path / "bcc" / "libbcc.py").touch()
    (tmp_path / "bcc" / "__init__.py").write_text(f"open({str(sprung)!r}, 'a').write('bcc')\n")
    outcome = subprocess.run(
        [sys.executable, "-P", "-m", "leaktrace", "1", "1", "--", "/bin/sleep", "3"],
        cwd=tmp_path,
        env={key: value for key, value in os.environ.items() if key != "PYTHONSAFEPATH"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stderr
    assert not sprung.exists(), sprung.read_text()
