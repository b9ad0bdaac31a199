"""Fixtures for several tests of this folder."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from debug_samples import Sample, Server
from symbol_target import LIBRARY, TARGET, Run, Target


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with `target`, `target-static` where possible, and `plugin.so`."""
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs gcc")
    directory = tmp_path_factory.mktemp("programs")
    (directory / "target.c").write_text(TARGET)
    (directory / "plugin.c").write_text(LIBRARY)
    for options in (
        ["-o", "target", "target.c", "-ldl"],
        ["-shared", "-fPIC", "-o", "plugin.so", "plugin.c"],
    ):
        subprocess.run([compiler, "-g", "-O1", *options], check=True, cwd=directory)
    return directory


@pytest.fixture
def run(programs: Path) -> Iterator[Run]:
    targets: list[Target] = []

    def start(*command: str | Path) -> Target:
        targets.append(Target(*(command or (programs / "target",))))
        return targets[-1]

    yield start
    for target in targets:
        target.end()


@pytest.fixture
def no_servers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test asks a server of the machine's user, or uses what the user has fetched."""
    monkeypatch.delenv("DEBUGINFOD_URLS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def sample(no_servers: None, tmp_path: Path, require_tool: Callable[[str], str]) -> Sample:
    require_tool("objcopy")
    return Sample(tmp_path, require_tool("gcc"))


@pytest.fixture
def server(no_servers: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        monkeypatch.setenv("DEBUGINFOD_URLS", f"{running.url}/")
        yield running
        running.shutdown()
        thread.join()
