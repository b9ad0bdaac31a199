"""--go-sample-refills sets breakpoints in the code of a Go program: they are removed however
leaktrace ends, and the program does what it does without them."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.goroutines import await_file, go_refills, started
from harness.lines import DEADLINE_S
from harness.tracer import Tracer

from leaktrace.targets.mappings import read_mappings

__all__ = ["go_refills"]
pytestmark = pytest.mark.usefixtures("require_bpf")

Object = dict[str, Any]
BREAKPOINT = 0xCC
ROUNDS = 5


@pytest.fixture(params=["debian", "debian-pie"])
def program(request: pytest.FixtureRequest, go_refills: Callable[[str], Path]) -> Path:
    return go_refills(request.param)


@pytest.fixture
def idle(program: Path, tmp_path: Path) -> Iterator[int]:
    with started(program, "large", str(tmp_path / "truth")) as pid:
        yield pid


def changed_code(pid: int) -> list[int]:
    """The bytes of the program's code that are not those of its file."""
    path = str(Path(f"/proc/{pid}/exe").readlink())
    (text,) = [one for one in read_mappings(pid) if one.is_executable and one.path == path]
    with Path(f"/proc/{pid}/exe").open("rb") as file, Path(f"/proc/{pid}/mem").open("rb") as memory:
        file.seek(text.offset)
        memory.seek(text.start)
        before = file.read(text.end - text.start)
        now = memory.read(len(before))
    return [byte for byte, old in zip(now, before, strict=True) if byte != old]


def sampling(pid: int) -> Tracer:
    return Tracer("go", "-p", str(pid), "--go-sample-refills", "0.2", "-f", "json")


def await_report(tracer: Tracer) -> Object:
    line = tracer.stdout.next()
    assert line is not None, tracer.stderr.rest()
    report: Object = json.loads(line)
    return report


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL, signal.SIGQUIT])
def test_the_code_is_as_before_however_leaktrace_ends(how: signal.Signals, idle: int) -> None:
    assert changed_code(idle) == []
    with sampling(idle) as tracer:
        assert await_report(tracer)["heap"]["refills"] is not None
        assert changed_code(idle) == [BREAKPOINT, BREAKPOINT]
        os.kill(tracer.pid, how)
        tracer.process.wait(DEADLINE_S)
    end_s = time.monotonic() + DEADLINE_S
    while changed_code(idle):
        assert time.monotonic() < end_s
        time.sleep(0.02)


def test_probes_follow_when_the_program_executes_itself(idle: int) -> None:
    with sampling(idle) as tracer:
        assert await_report(tracer)["notes"] == []
        os.kill(idle, signal.SIGHUP)
        while not (report := await_report(tracer))["notes"]:
            pass
        assert any("executed another program" in note for note in report["notes"])
        assert report["heap"]["refills"] is not None
        assert changed_code(idle) == [BREAKPOINT, BREAKPOINT]
        outcome = tracer.stop(signal.SIGTERM)
    assert outcome.exit_code == 0, outcome.stderr
    assert changed_code(idle) == []


def test_a_killed_keeper_is_told(idle: int) -> None:
    with sampling(idle) as tracer:
        await_report(tracer)
        (keeper,) = Path(f"/proc/{tracer.pid}/task/{tracer.pid}/children").read_text().split()
        assert Path(f"/proc/{keeper}/comm").read_text() == "probe-keeper\n"
        os.kill(int(keeper), signal.SIGKILL)
        outcome = tracer.finish()
    assert outcome.exit_code == 1
    assert "the process that holds the probes" in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert changed_code(idle) == []


def test_the_program_does_what_it_does_without(program: Path, tmp_path: Path) -> None:
    """Deep stacks that grow, a collector that always runs, probes that come and go."""
    truth = tmp_path / "truth"

    def told_by(pid: int, *, is_sampled: bool) -> Object:
        truth.unlink(missing_ok=True)
        os.kill(pid, signal.SIGUSR1)
        while is_sampled and not truth.exists():
            with sampling(pid) as tracer:
                await_report(tracer)
                tracer.stop(signal.SIGTERM)
        told: Object = json.loads(await_file(truth))
        return told

    with started(program, "deep", str(truth), env={"GOGC": "1"}) as pid:
        expected = told_by(pid, is_sampled=False)
        for _ in range(ROUNDS):
            seen = told_by(pid, is_sampled=True)
            assert (seen["conf"], seen["task"]) == (expected["conf"], expected["task"])
        assert changed_code(pid) == []
