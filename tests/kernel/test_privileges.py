"""Tracing without root: the capabilities that each process requires, found by removing each in
turn.

With all of them the figures are exact; without any one of them, `-p` and `leaktrace doctor -p` name
that one, and no other.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from harness.compiling import Compiler
from harness.length import IS_LONG
from harness.lines import DEADLINE_S
from harness.privileges import NOBODY, anybodys_python, nobody_with
from harness.reports import Report, Total
from harness.target import Target
from harness.tracer import NEVER, ONE_REPORT, Outcome, Tracer
from harness.wording import names, the_note

from leaktrace.bpf.links import has_uprobe_multi

pytestmark = [
    pytest.mark.usefixtures("require_bpf", "require_tools"),
    pytest.mark.may_skip("not every machine has a Python that the user nobody can run"),
]

PROBES = ("bpf", "perfmon") if has_uprobe_multi() else ("bpf", "perfmon", "sys_admin")


@pytest.fixture(scope="module")
def require_tools(require_tool: Callable[[str], str]) -> None:
    require_tool("setpriv")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory that any user may search, unlike pytest's."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@dataclass(frozen=True)
class Leaktrace:
    """The command, as user nobody with some capabilities."""

    python: str
    environment: dict[str, str]

    def prefix(self, capabilities: Sequence[str]) -> list[str]:
        settings = [f"{name}={value}" for name, value in self.environment.items()]
        return [*nobody_with(capabilities), "env", *settings, self.python, "-m", "leaktrace"]

    def run(self, capabilities: Sequence[str], *arguments: str) -> Outcome:
        done = subprocess.run(
            [*self.prefix(capabilities), *arguments],
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def leaktrace() -> Iterator[Leaktrace]:
    """With one cache for all tests, so that programs are compiled once."""
    python, environment = anybodys_python()
    with tempfile.TemporaryDirectory() as cache:
        os.chown(cache, NOBODY, NOBODY)
        yield Leaktrace(python, {**environment, "XDG_CACHE_HOME": cache, "HOME": "/"})


# --- processes, and what they take beyond the privilege to put probes on -------------------------


@dataclass(frozen=True)
class Kind:
    """A process, and the capabilities that its allocator requires."""

    owner: str  # "own": of the tracing user; "other": root's
    file: str  # what happened to the file that contains its allocator
    beyond: tuple[str, ...]


KINDS = {
    "own": Kind("own", "there", ()),
    "own, its allocator deleted": Kind("own", "deleted", ("checkpoint_restore",)),
    "own, its allocator replaced": Kind("own", "replaced", ("checkpoint_restore",)),
    "own, its allocator unreadable": Kind("own", "unreadable", ("dac_read_search",)),
    "other": Kind("other", "there", ("sys_ptrace",)),
    "other, its allocator deleted": Kind(
        "other", "deleted", ("sys_ptrace", "dac_read_search", "checkpoint_restore")
    ),
    "other, its allocator unreadable": Kind(
        "other", "unreadable", ("sys_ptrace", "dac_read_search")
    ),
}


@pytest.fixture
def target(kind: str, folder: Path, compiled: Compiler) -> Iterator[Target]:
    """Its malloc is in its own library; libc has another one."""
    program, library = folder / "program", folder / "liballocator.so"
    shutil.copy(compiled("commands.c"), program)
    shutil.copy(compiled("plain_malloc.c", "-shared", "-fPIC"), library)
    runs_as = nobody_with() if KINDS[kind].owner == "own" else []
    command = [*runs_as, "env", f"LD_PRELOAD={library}", str(program)]
    with Target(command) as target:
        target.await_ready()
        match KINDS[kind].file:
            case "deleted":
                library.unlink()
            case "replaced":
                library.unlink()
                shutil.copy(compiled("plain_malloc.c", "-shared", "-fPIC"), library)
            case "unreadable":
                library.chmod(0o700)
        yield target


def without(capability: str, kind: Kind) -> tuple[str, ...]:
    return tuple(one for one in (*PROBES, *kind.beyond) if one != capability)


def named(text: str) -> set[str]:
    """The capabilities that are named as missing or needed, in the words of setpriv."""
    found = re.findall(r"CAP_(\w+) (?:is missing|is needed|\(for )", text)
    return {name.lower() for name in found}


# Without the privilege to attach probes it doesn't matter what became of the file: the short form
# takes that privilege away only where the file is there.
CASES = [
    pytest.param(name, capability, id=f"{name}: {capability}")
    for name, kind in KINDS.items()
    for capability in (*(PROBES if kind.file == "there" or IS_LONG else ()), *kind.beyond)
]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_needed_is_enough(kind: str, target: Target, leaktrace: Leaktrace) -> None:
    granted = (*PROBES, *KINDS[kind].beyond)
    doctor = leaktrace.run(granted, "doctor", "-p", str(target.pid), "--json")
    assert doctor.exit_code == 0, doctor.stderr
    assert json.loads(doctor.stdout)["obstacles"] == []
    with Running(leaktrace, granted, target) as report:
        assert report.under("scenario_command_malloc") == Total(700, 7)
        assert report.losses == {}
        assert "liballocator.so" in str(report.raw["target"]["allocators"])
        (site,) = report.sites_under("scenario_command_malloc")
        assert site.raw["stack_end"] == "complete"


@pytest.mark.parametrize(("kind", "capability"), CASES)
def test_the_missing_capability_is_named(
    kind: str, capability: str, target: Target, leaktrace: Leaktrace
) -> None:
    granted = without(capability, KINDS[kind])
    doctor = leaktrace.run(granted, "doctor", "-p", str(target.pid), "--json")
    obstacles = json.loads(doctor.stdout)["obstacles"]
    assert {one["capability"] for one in obstacles} == {f"CAP_{capability.upper()}"}
    assert named(" ".join(one["message"] for one in obstacles)) == {capability}
    table = leaktrace.run(granted, "doctor", "-p", str(target.pid))
    assert named(table.stdout) == {capability}
    assert doctor.exit_code == table.exit_code

    if doctor.exit_code == 3:
        outcome = leaktrace.run(granted, "-p", str(target.pid), "1", "1")
        assert outcome.exit_code == 3
        assert outcome.stdout == ""
        assert named(outcome.stderr) == {capability}
        assert names(outcome.stderr, "root")
    else:  # libc can be hooked, but it isn't where the memory comes from
        assert doctor.exit_code == 0
        with Running(leaktrace, granted, target) as report:
            assert named(str(report.raw["target"]["notes"])) == {capability}
            the_note(report, "liballocator.so", f"CAP_{capability}")


class Running:
    """leaktrace traces while a target allocates 7 blocks of 100 bytes."""

    def __init__(self, leaktrace: Leaktrace, granted: Sequence[str], target: Target) -> None:
        self._command = [*leaktrace.prefix(granted), "-p", str(target.pid), *ONE_REPORT, NEVER]
        self._target = target

    def __enter__(self) -> Report:
        with Tracer(command=self._command) as tracer:
            tracer.await_armed()
            self._target.do("malloc 7 100")
            outcome = tracer.stop()
        assert outcome.exit_code == 0, outcome.stderr
        assert "Traceback" not in outcome.stderr
        (report,) = outcome.reports
        return report

    def __exit__(self, *_: object) -> None:
        assert self._target.end() == 0


# --- the machine ---------------------------------------------------------------------------------

EVERY = ("bpf", "perfmon", "sys_ptrace", "checkpoint_restore", "dac_read_search", "sys_admin")


def states(outcome: Outcome) -> dict[str, str]:
    features: list[dict[str, Any]] = json.loads(outcome.stdout)["features"]
    return {one["name"]: one["state"] for one in features}


@pytest.mark.parametrize("capability", EVERY)
def test_doctor_tries_each(capability: str, leaktrace: Leaktrace) -> None:
    """Root's capability sets are not read: the kernel's behaviour is tested."""
    alone = states(leaktrace.run((capability,), "doctor", "--json"))
    others = tuple(one for one in EVERY[:-1] if one != capability)
    rest = states(leaktrace.run(others, "doctor", "--json"))
    if capability != "sys_admin":
        assert alone[f"CAP_{capability.upper()}"] == "ok"
        assert rest[f"CAP_{capability.upper()}"] != "ok"
        assert {rest[f"CAP_{one.upper()}"] for one in others} == {"ok"}
    else:  # capabilities(7): it includes these
        granted = {name for name, state in alone.items() if name[:4] == "CAP_" and state == "ok"}
        assert granted >= {"CAP_BPF", "CAP_PERFMON", "CAP_CHECKPOINT_RESTORE", "CAP_SYS_ADMIN"}
        assert alone["CAP_SYS_PTRACE"] != "ok"


@pytest.mark.parametrize("kind", ["own"])
def test_probes_as_perf_events_may_take_more(
    kind: str, target: Target, leaktrace: Leaktrace
) -> None:
    """As on kernels without links for probes, of which recent ones ask for CAP_SYS_ADMIN."""
    environment = {**leaktrace.environment, "LEAKTRACE_WITHOUT": "uprobe_multi"}
    older = Leaktrace(leaktrace.python, environment)
    pid = str(target.pid)
    doctor = older.run(("bpf", "perfmon"), "doctor", "-p", pid)
    outcome = older.run(("bpf", "perfmon"), "-p", pid, "--format", "json", "0.1", "1")
    if doctor.exit_code == 0:  # Linux 5.8 to 6.15
        assert outcome.exit_code == 0
        return
    assert named(doctor.stdout) == {"sys_admin"}
    assert outcome.exit_code == 3
    assert named(outcome.stderr) == {"sys_admin"}
    granted = ("bpf", "perfmon", "sys_admin")
    assert older.run(granted, "-p", pid, "--format", "json", "0.1", "1").exit_code == 0


@pytest.mark.parametrize("kind", ["other"])
def test_a_process_that_proc_hides(kind: str, target: Target, leaktrace: Leaktrace) -> None:
    """It exists, so the message isn't "no such process"."""
    mount = 'mount -t proc -o hidepid=2 proc /proc && exec "$@"'
    command = leaktrace.prefix(PROBES)
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mount, "sh", *command, "-p", str(target.pid), "1", "1"],
        capture_output=True,
        text=True,
        check=False,
    )
    if "mount:" in done.stderr:
        pytest.skip("nothing can be mounted here")
    assert done.returncode == 3
    assert "hidepid" in done.stderr
    assert named(done.stderr) == {"sys_ptrace"}
