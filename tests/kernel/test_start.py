"""A slow or interrupted start: signals act at once, and nothing is left behind."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import large_tables
import pytest
from harness.changed_text import changed_bytes
from harness.compiling import Compiler
from harness.length import chosen, repetitions
from harness.processes import await_gone, children
from harness.target import Target
from harness.tracer import NEVER, ONE_REPORT, Tracer, new_cache, run_leaktrace
from harness.wording import names, notes_naming, the_note

pytestmark = pytest.mark.usefixtures("require_bpf")

LARGE_BYTES = 48 << 20  # takes longer to build than the limit of a start
PROMPT_S = 5.0  # generously: it takes a tenth of a second


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory, require_tool: Callable[[str], str]) -> Path:
    path = tmp_path_factory.mktemp("large") / "liblarge.so"
    return large_tables.build(require_tool("gcc"), path, LARGE_BYTES)


@contextmanager
def running(program: Path, *preloaded: Path) -> Iterator[Target]:
    """A target, which must be unchanged at the end."""
    with Target([program], {"LD_PRELOAD": ":".join(map(str, preloaded))}) as target:
        target.await_ready()
        mapped = Path(f"/proc/{target.pid}/maps").read_text()
        assert all(str(one) in mapped for one in preloaded)
        yield target
        assert changed_bytes(target.pid) == []
        assert target.do("malloc 1 1") == ()
        assert target.end() == 0


def break_off(target: Target, by: signal.Signals, after_s: float, cache: Path) -> int:
    """Start leaktrace, send it a signal, and check its end. Returns its exit code."""
    environment = {"XDG_CACHE_HOME": str(cache)}
    with Tracer("-p", str(target.pid), *ONE_REPORT, NEVER, env=environment) as tracer:
        tracer.stderr.until(lambda line: "attaching to pid" in line)
        time.sleep(after_s)
        started = children(tracer.pid)
        sent_s = time.monotonic()
        outcome = tracer.stop(by)
        assert time.monotonic() - sent_s < PROMPT_S
    await_gone(started)
    assert "Traceback" not in outcome.stderr, outcome.stderr
    if outcome.exit_code == 0:
        assert len(outcome.reports) == 1
    else:
        assert outcome.exit_code == 130, outcome.stderr
        assert outcome.stdout == ""
        assert names(outcome.stderr, by.name, "before")
    return outcome.exit_code


@pytest.mark.parametrize(
    ("after_s", "by"),
    chosen(
        [(0.5, signal.SIGTERM), (1.5, signal.SIGINT)], [(0, signal.SIGINT), (3, signal.SIGTERM)]
    ),
)
def test_a_signal_while_tables_are_built(
    after_s: float, by: signal.Signals, large: Path, compiled: Compiler, tmp_path: Path
) -> None:
    with running(compiled("commands.c"), large) as target:
        assert break_off(target, by, after_s, tmp_path) == 130


@pytest.mark.parametrize("compiles", [True, False], ids=["compiling", "compiled before"])
def test_a_signal_at_any_moment(compiles: bool, compiled: Compiler, tmp_path: Path) -> None:
    """While the compiler's child runs, while the keeper attaches probes, and just after."""
    codes = []
    with running(compiled("commands.c")) as target:
        if not compiles:
            environment = new_cache(tmp_path)
            arguments = ["-p", str(target.pid), *ONE_REPORT, "0.1", "1"]
            assert run_leaktrace(*arguments, env=environment).exit_code == 0
        moments = repetitions(4, 16)
        for number in range(moments):
            cache = tmp_path / str(number) if compiles else tmp_path
            by = (signal.SIGINT, signal.SIGTERM)[number % 2]
            codes.append(break_off(target, by, 0.8 * number / moments, cache))
            assert changed_bytes(target.pid) == []
    assert 130 in codes


def test_a_signal_before_a_command_runs(large: Path, compiled: Compiler, tmp_path: Path) -> None:
    """The command waits for its probes. It never runs, and is ended."""
    environment = {"LD_PRELOAD": str(large), "XDG_CACHE_HOME": str(tmp_path)}
    command = ["env", f"LD_PRELOAD={large}", str(compiled("commands.c"))]
    moments = repetitions(4, 8)
    for number in range(moments):
        with Tracer(NEVER, "--", *command, env=environment) as tracer:
            tracer.stderr.until(lambda line: "attaching to pid" in line)
            time.sleep(0.16 * number / moments)
            started = children(tracer.pid)
            outcome = tracer.stop(signal.SIGTERM)
        await_gone(started)
        assert "Traceback" not in outcome.stderr, outcome.stderr
        assert outcome.exit_code in (0, 130), outcome.stderr


def test_tables_have_a_budget(
    large: Path, compiled: Compiler, tmp_path: Path, require_tool: Callable[[str], str]
) -> None:
    """Two objects exceed the budget: at least one is left out and named. The program and the C
    library have their tables, so stacks are complete."""
    other = tmp_path / "libother.so"
    large_tables.build(require_tool("gcc"), other, LARGE_BYTES, seed=1)
    with running(compiled("commands.c"), large, other) as target:
        environment = new_cache(tmp_path / "cache")
        with Tracer("-p", str(target.pid), *ONE_REPORT, "-v", NEVER, env=environment) as tracer:
            tracer.await_armed()
            target.do("malloc 10 100")
            outcome = tracer.stop()
    assert outcome.exit_code == 0, outcome.stderr
    (report,) = outcome.reports
    (left_out,) = notes_naming(report, "exceed", "limit")
    assert names(left_out, "libother.so") or names(left_out, "liblarge.so")
    the_note(report, 64, "MB")
    (site,) = report.sites_under("scenario_command_malloc")
    assert site.raw["stack_end"] == "complete"
    assert report.losses == {}
