"""Containers: other root directories, other process ids."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.compiling import Compiler
from harness.reports import Total
from harness.target import Target
from harness.tracer import NEVER, ONE_REPORT, Tracer, run_leaktrace

pytestmark = pytest.mark.usefixtures("require_bpf")


def install(root: Path, program: Path) -> None:
    """A root directory with the program and copies of the libraries it needs."""
    listing = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    libraries = re.findall(r"(/\S+) \(0x", listing)
    assert libraries
    for library in libraries:
        inside = root / library.lstrip("/")
        inside.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, inside)
    shutil.copy(program, root / "program")


def test_a_process_with_another_root(
    compiled: Compiler, tmp_path: Path, require_tool: Callable[[str], str]
) -> None:
    """Its libc is another file than ours, and its paths don't exist outside."""
    install(tmp_path, compiled("functions.c"))
    with Target([require_tool("chroot"), tmp_path, "/program"]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), *ONE_REPORT, NEVER) as tracer:
            tracer.await_armed()
            target.do()
            (report,) = tracer.stop().reports
        assert target.end() == 0
    assert report.under("scenario_malloc") == Total(3000, 3)
    assert report.under("scenario_strdup") == Total(5, 1)
    (site,) = report.sites_under("scenario_malloc")
    assert site.frames[0].module is not None
    assert Path(site.frames[0].module).name == "program"
    assert report.losses == {}


def test_an_obj_is_looked_for_in_the_targets_root(
    compiled: Compiler, tmp_path: Path, require_tool: Callable[[str], str]
) -> None:
    shutil.copy(compiled("own_allocator.c", "-static"), tmp_path / "program")
    with Target([require_tool("chroot"), tmp_path, "/program"]) as target:
        target.await_ready()
        options = [*ONE_REPORT, "-O", "/program", "--symbols-prefix", "my_"]
        with Tracer("-p", str(target.pid), *options, NEVER) as tracer:
            tracer.await_armed()
            target.do()
            (report,) = tracer.stop().reports
        assert target.end() == 0
    assert report.outstanding == Total(9 * 130, 9)


def test_a_process_in_another_pid_namespace(
    compiled: Compiler, require_tool: Callable[[str], str]
) -> None:
    """It has one process id inside and another one outside."""
    unshare = [require_tool("unshare"), "--pid", "--fork", "--kill-child"]
    with Target([*unshare, compiled("functions.c")]) as target:
        target.await_ready()
        children = Path(f"/proc/{target.pid}/task/{target.pid}/children").read_text()
        with Tracer("-p", children.split()[0], *ONE_REPORT, NEVER) as tracer:
            tracer.await_armed()
            target.do()
            (report,) = tracer.stop().reports
        assert target.end() == 0
    assert report.under("scenario_malloc") == Total(3000, 3)
    assert report.losses == {}


def test_leaktrace_within_a_pid_namespace(
    compiled: Compiler, require_tool: Callable[[str], str]
) -> None:
    """The process ids that the kernel side sees are not those of this namespace."""
    within = [require_tool("unshare"), "--pid", "--fork", "--mount-proc", "--kill-child"]
    command = str(compiled("exit_at_once.c"))
    outcome = run_leaktrace(*ONE_REPORT, "-c", command, NEVER, prefix=within)
    assert outcome.exit_code == 0, outcome.stderr
    (report,) = outcome.reports
    assert report.outstanding == Total(10 * 16 + 1000 * 128, 1010)
    assert report.under("scenario_leak") == Total(128_000, 1000)


def test_an_exec_within_a_pid_namespace(
    compiled: Compiler, require_tool: Callable[[str], str]
) -> None:
    """A shell executes the program: the shell's own allocations are dropped."""
    within = [require_tool("unshare"), "--pid", "--fork", "--mount-proc", "--kill-child"]
    command = f"sh -c 'exec {compiled('exit_at_once.c')}'"
    outcome = run_leaktrace(*ONE_REPORT, "-c", command, NEVER, prefix=within)
    assert outcome.exit_code == 0, outcome.stderr
    (report,) = outcome.reports
    assert report.outstanding == Total(10 * 16 + 1000 * 128, 1010)
