"""Programs run with some capabilities and no others, as the user nobody."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from harness.tracer import REPOSITORY

NOBODY = 65534


def nobody_with(capabilities: Iterable[str] = ()) -> list[str]:
    """A command that runs another as the user nobody, with these (names as of setpriv(1), "bpf") in
    every set, and no others."""
    granted = "".join(f",+{name}" for name in capabilities)
    ambient = [f"--ambient-caps=-all{granted}"] if granted else []
    return [
        "setpriv",
        f"--reuid={NOBODY}",
        f"--regid={NOBODY}",
        "--clear-groups",
        f"--inh-caps=-all{granted}",
        *ambient,
        f"--bounding-set=-all{granted}",
    ]


def anybodys_python() -> tuple[str, dict[str, str]]:
    """A Python that the user nobody may run, and the environment in which it finds leaktrace and
    its dependencies. Skips the test where there is none."""
    packages = Path(sysconfig.get_paths()["purelib"])
    environment = {"PYTHONPATH": f"{REPOSITORY / 'src'}:{packages}", "PYTHONDONTWRITEBYTECODE": "1"}
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, f"/usr/bin/python{version}"):
        if _can_run(python, environment):
            return python, environment
    pytest.skip("there is no Python here that the user nobody can run: its directory is closed")


def _can_run(python: str, environment: Mapping[str, str]) -> bool:
    # Through env: setpriv itself still has root's capabilities when it searches for a program.
    command = [*nobody_with(), "env", python, "-c", "import leaktrace.cli.trace"]
    settings = {**os.environ, **environment}
    return subprocess.run(command, env=settings, capture_output=True, check=False).returncode == 0
