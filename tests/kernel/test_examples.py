"""Each folder of examples/ does what its README shows."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from distribution import cache_directory
from harness.tracer import run_leaktrace
from harness.transcripts import built, quoted_lines, replay, sites_in

pytestmark = pytest.mark.usefixtures("require_bpf")


def test_cgo(
    tmp_path: Path, require_tool: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    require_tool("go")
    environment = {**os.environ, "GOCACHE": str(cache_directory() / "go")}
    readme, outcome = replay(built("cgo", tmp_path, env=environment), monkeypatch)
    assert outcome.exit_code == 0

    def sites(text: str) -> object:
        return sites_in(re.sub("_cgo_[0-9a-f]{12}", "_cgo", text), lines=False)

    expected = sites_in(readme, lines=False)
    assert len(expected) == 2
    assert {frame for _, _, frames in expected for frame in frames[:1]} == {"add libadd.so"}
    assert sites(outcome.stdout) == sites(readme)


class Example(NamedTuple):
    """A folder, the program in it, how many sites of it the README shows, and how it is built."""

    name: str
    program: str
    sites: int
    make: tuple[str, ...] = ()


@pytest.mark.parametrize(
    "example",
    [
        Example("jemalloc", "sessions", 2),
        Example("static", "gateway", 1),
        Example("static", "gateway", 1, ("CC=musl-gcc",)),
    ],
    ids=["jemalloc", "static-glibc", "static-musl"],
)
def test_a_leak_that_the_first_frame_shows(
    example: Example,
    tmp_path: Path,
    require_tool: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    require_tool("musl-gcc" if example.make else "g++")
    folder, program = built(example.name, tmp_path, *example.make), example.program
    readme, outcome = replay(folder, monkeypatch)
    assert outcome.exit_code == 0, outcome.stderr
    assert readme.split("```")[1].splitlines()[1] in outcome.stdout  # what the program prints
    (source,) = [path for path in folder.iterdir() if path.stem == program and path.suffix]

    def sites(text: str) -> set[tuple[str, str, tuple[str, ...]]]:
        """With the frames of the program's own source: others differ by distribution."""
        return {
            (size, number, tuple(frame for frame in frames if f" {source.name}:" in frame))
            for size, number, frames in sites_in(text, only=program)
        }

    expected = sites(readme)
    assert len(expected) == example.sites
    assert sites(outcome.stdout) == expected
    # The lines that the README quotes are those of the first frames, and of the source.
    lines = source.read_text(encoding="utf-8").splitlines()
    quoted = quoted_lines(readme)
    assert quoted == {number: lines[number - 1] for number in quoted}
    firsts = {frames[0].split()[-2] for _, _, frames in expected}
    assert firsts == {f"{source.name}:{number}" for number in quoted}


def test_sessions_with_a_weak_pointer_do_not_leak(
    tmp_path: Path, require_tool: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    require_tool("g++")
    folder = built("jemalloc", tmp_path)
    source = folder / "sessions.cpp"
    text = source.read_text(encoding="utf-8")
    member = "std::shared_ptr<Session> session; //"
    assert member in text
    source.write_text(text.replace(member, "std::weak_ptr<Session> session; //"), encoding="utf-8")
    subprocess.run(["make", "-C", folder], check=True)
    _, outcome = replay(folder, monkeypatch)
    assert outcome.exit_code == 0
    assert "500 users served" in outcome.stdout
    assert "SessionCache" not in outcome.stdout


def test_the_gateway_without_symbols(tmp_path: Path, require_tool: Callable[[str], str]) -> None:
    program = built("static", tmp_path) / "gateway"
    subprocess.run([require_tool("strip"), program], check=True)
    by_calls = run_leaktrace("-c", f"{program} 1000")
    assert by_calls.exit_code == 1
    assert "defines malloc and free" in by_calls.stderr
    assert "--faults" in by_calls.stderr
    assert run_leaktrace("--faults", "-c", f"{program} 1000").exit_code == 0
