"""Programs of language runtimes: a healthy one causes no alarm, and what a report advises works."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness.compiling import Compiler
from harness.lines import DEADLINE_S
from harness.target import Target
from harness.tracer import Outcome, run_leaktrace

pytestmark = pytest.mark.usefixtures("require_bpf")

NODE = """
const kept = [];
function remember(i) { kept.push(Buffer.alloc(20000 + i % 50)); }
let ready = false;
setInterval(() => {
  for (let i = 0; i < 300; i++) remember(i);
  kept.length = Math.min(kept.length, 2000);
  if (!ready && kept.length == 2000) { console.log("ready"); ready = true; }
}, 10);
process.stdin.on("end", () => process.exit(0)).resume();
"""

JAVA = """
import java.nio.ByteBuffer;
import java.util.*;
public class Remember {
    static List<ByteBuffer> kept = new ArrayList<>();
    static void remember(int i) { kept.add(ByteBuffer.allocateDirect(128 + i % 64)); }
    public static void main(String[] words) throws Exception {
        for (int i = 0; System.in.available() == 0; i++) {
            remember(i);
            if (i % 100 == 0) Thread.sleep(1);
            if (kept.size() > 20000) kept.clear();
            if (i == 60000) System.out.println("ready");
        }
    }
}
"""

PYTHON = """
import select, sys
kept = []
def remember():
    kept.append(bytearray(20000))
def work(depth):
    return remember() if depth == 0 else work(depth - 1)
print("ready", flush=True)
while not select.select([sys.stdin], [], [], 0.001)[0]:
    work(3)
    del kept[:-200]
"""


@contextmanager
def running(argv: Sequence[str | Path]) -> Iterator[Target]:
    with Target(argv) as target:
        yield target.await_ready()


def trace(target: Target, *options: str) -> Outcome:
    outcome = run_leaktrace("-p", str(target.pid), "-o", "0", "-T", "100", *options, "1", "1")
    assert outcome.exit_code == 0, outcome.stderr
    return outcome


def stacks_in(text: str) -> dict[str, list[str]]:
    """The lines of the stack of each site that is shown with one, by the site's id: one for each
    frame, or for a run of them. (Sites in short have one frame, and no empty line between them.)"""
    found: dict[str, list[str]] = {}
    for paragraph in text.split("\n\n"):
        heads = re.findall(r"\boldest \S+  ([0-9a-f]{6,16})$", paragraph, re.MULTILINE)
        if len(heads) == 1:
            lines = [line.strip() for line in paragraph.splitlines()[1:]]
            found[heads[0]] = [
                line for line in lines if re.match(r"\.\.\. |\S.*(\+0x| \(inlined\))", line)
            ]
    return found


def said(text: str) -> str:
    """The text of a report, its lines joined: messages are wrapped."""
    return " ".join(text.split())


def check_calm(outcome: Outcome) -> None:
    assert "lost: nothing" in outcome.stdout, outcome.stdout[-2000:]
    assert "hint" not in outcome.stderr


# --- Node ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def node(require_tool: Callable[[str], str]) -> str:
    return require_tool("node")


def test_node(node: str) -> None:
    with running([node, "-e", NODE]) as target:
        outcome = trace(target)
    check_calm(outcome)
    assert "node --perf-basic-prof" in said(outcome.stdout)


def test_node_with_names(node: str, tmp_path: Path) -> None:
    # It also writes a log to its working directory.
    there = ["env", f"--chdir={tmp_path}"]
    with running([*there, node, "--perf-basic-prof", "-e", NODE]) as target:
        outcome = trace(target)
        Path(f"/tmp/perf-{target.pid}.map").unlink()
    check_calm(outcome)
    assert any(
        line.split()[0].startswith("JS:") for line in outcome.stdout.splitlines() if line.strip()
    )
    assert "--perf-basic-prof" not in outcome.stdout


# --- Java ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def java(
    require_tool: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, str, str]:
    """java, where its classes are, and jcmd, all of one JDK."""
    compiler = Path(require_tool("javac")).resolve()
    tools = [compiler.with_name(name) for name in ("java", "jcmd")]
    if not all(tool.exists() for tool in tools):
        pytest.skip("this JDK has no java or jcmd")
    folder = tmp_path_factory.mktemp("java")
    (folder / "Remember.java").write_text(JAVA)
    subprocess.run([compiler, "Remember.java"], cwd=folder, check=True, timeout=DEADLINE_S)
    return str(tools[0]), str(folder), str(tools[1])


@pytest.mark.may_skip("a JDK is large")
def test_java(java: tuple[str, str, str]) -> None:
    """Its compiled code keeps no frame pointer and has no names. Both are said, with what helps."""
    program, classes, jcmd = java
    with running([program, "-Xmx128m", "-cp", classes, "Remember"]) as target:
        outcome = trace(target)
        check_calm(outcome)
        text = said(outcome.stdout)
        assert f"jcmd {target.pid} Compiler.perfmap" in text
        assert "-XX:+PreserveFramePointer" in text
        done = subprocess.run([jcmd, str(target.pid), "Compiler.perfmap"], check=False)
        if done.returncode:
            pytest.skip("this JDK has no Compiler.perfmap")
        again = trace(target)
        Path(f"/tmp/perf-{target.pid}.map").unlink()
    check_calm(again)
    assert "Unsafe.allocateMemory" in again.stdout


@pytest.mark.may_skip("a JDK is large")
def test_java_with_frame_pointers(java: tuple[str, str, str]) -> None:
    program, classes, _ = java
    options = ["-XX:+PreserveFramePointer", "-Xmx128m"]
    with running([program, *options, "-cp", classes, "Remember"]) as target:
        outcome = trace(target, "--full-stacks")
    check_calm(outcome)
    assert "-XX:+PreserveFramePointer" not in outcome.stdout
    assert "JavaMain" in outcome.stdout  # beyond the code that Java compiled


# --- Python ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def python() -> str:
    """A CPython that has -X perf."""
    installed = [shutil.which(f"python3.{minor}") or "" for minor in (12, 13)]
    installed += map(str, sorted(Path.home().glob(".pyenv/versions/3.1[23]*/bin/python3")))
    ask = "import sys; sys.exit(sys.version_info < (3, 12))"
    for program in filter(None, installed):
        if subprocess.run([program, "-X", "perf", "-c", ask], check=False).returncode == 0:
            return program
    pytest.skip("there is no CPython 3.12 or 3.13 here")


@pytest.mark.may_skip("not every distribution has CPython 3.12 or 3.13")
def test_python(python: str) -> None:
    with running([python, "-c", PYTHON]) as target:
        outcome = trace(target)
    check_calm(outcome)
    assert "python -X perf" in said(outcome.stdout)


@pytest.mark.may_skip("not every distribution has CPython 3.12 or 3.13")
def test_python_with_names(python: str) -> None:
    with running([python, "-X", "perf", "-c", PYTHON]) as target:
        outcome, short = trace(target, "--full-stacks"), trace(target)
    check_calm(outcome)
    assert "py::remember:" in short.stdout
    assert len(short.stdout.splitlines()) < len(outcome.stdout.splitlines())
    assert "-X perf" not in outcome.stdout
    lines = [line.split() for line in outcome.stdout.splitlines()]
    functions = [words[0] for words in lines if words and words[0].startswith("py::")]
    assert functions[0].startswith("py::remember:")
    assert functions[1].startswith("py::work:")
    assert "_start" in outcome.stdout
    assert "broken" not in outcome.stdout
    assert "cut off" not in outcome.stdout


def test_stacks_of_python_are_short_and_no_frame_is_missing() -> None:
    """Each frame that JSON has is in the text, or counted there. Both reports list the same sites
    (by their ids); a run of the same frames is counted, too."""
    with running([sys.executable, "-c", PYTHON]) as target:
        text, lines = trace(target).stdout, trace(target, "-f", "json").stdout
    check = {site["id"]: site["frames"] for site in json.loads(lines)["sites"]}
    stacks = {
        id: stack
        for short, stack in stacks_in(text).items()
        for id in check
        if id.startswith(short)  # text has as many digits as tell sites apart
    }
    assert stacks
    for site_id, stack in stacks.items():
        named = [line for line in stack if not line.startswith("...")]
        folded = [int(found[1]) for line in stack if (found := re.match(r"\.\.\. (\d+) ", line))]
        assert len(stack) <= 6
        assert len(named) + sum(folded) == len(check[site_id]), stack
        assert named[0].startswith(check[site_id][0]["function"] or "["), stack


# --- musl ------------------------------------------------------------------------------------


def test_musl(compiled: Compiler, require_tool: Callable[[str], str]) -> None:
    program = compiled("bench_pairs.c", compiler=require_tool("musl-gcc"))
    with running([program, "8"]) as target:
        target.send("1000000 100")
        outcome = trace(target)
    check_calm(outcome)
    assert "cut off" not in outcome.stdout
    assert "note:" not in outcome.stdout
