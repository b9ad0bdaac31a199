"""User errors: an exit status, one line that says what happened, and one that says what to do."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.compiling import Compiler
from harness.target import Target
from harness.tracer import Outcome, run_leaktrace
from harness.wording import names

USAGE, RUNTIME, UNFIT, TARGET = 2, 1, 3, 4


def check(outcome: Outcome, exit_code: int, *, hint: bool = True) -> None:
    assert outcome.exit_code == exit_code, outcome.stderr
    assert outcome.stdout == ""
    assert "Traceback" not in outcome.stderr
    lines = [line for line in outcome.stderr.splitlines() if line]
    assert any("rror" in line or line.startswith("leaktrace") for line in lines), lines
    if hint:
        assert len(lines) >= 2, lines


@pytest.fixture
def target(compiled: Compiler) -> Iterator[Target]:
    with Target([compiled("commands.c")]) as target:
        yield target.await_ready()


# --- usage: checked before privileges -----------------------------------------------------


@pytest.mark.parametrize("pid", ["0", "-1", "abc", "", "1.5", "0x10"])
def test_not_a_process_id(pid: str) -> None:
    check(run_leaktrace("-p", pid, "1", "1"), USAGE)


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["-p", "1", "-z", "1k"], "'1k'", ""),
        (["-p", "httpd"], "'httpd'", "pgrep"),
        (["./leak", "100"], "'./leak'", "leaktrace -- ./leak"),
    ],
)
def test_not_a_number(arguments: list[str], message: str, hint: str) -> None:
    outcome = run_leaktrace(*arguments)
    check(outcome, USAGE)
    assert names(outcome.stderr, message, "number", hint)


def test_no_target_names_the_choices() -> None:
    outcome = run_leaktrace()
    check(outcome, USAGE)
    assert names(outcome.stderr, "-p PID", "-c CMD", "-- CMD ARGS")


@pytest.mark.parametrize(
    "arguments",
    [
        ["-p", "1", "-c", "true"],
        ["-p", "1", "--", "true"],
        ["-p", "1", "--exit-code", "child"],
        ["--kernel", "--exit-code", "child"],
        ["-c", "true", "-z", "200", "-Z", "100"],
        ["-c", "true", "-z", "-1"],
        ["-c", "true", "-1", "1"],
        ["-c", "true", "--", "-1"],
        ["-c", "true", "0"],
        ["-c", "true", "nan"],
        ["-c", "true", "inf"],
        ["-c", "true", "1", "0"],
        ["-c", "true", "1", "-1"],
        ["-c", "true", "x"],
        ["-c", "true", "-T", "0"],
        ["-c", "true", "-o", "-1"],
        ["-c", "true", "-s", "0"],
        ["-c", "true", "--sort", "colour"],
        ["-c", "true", "--format", "colour"],
        ["-c", "true", "1e300"],
        ["-c", "true", "-s", "5000000000"],
        ["-c", "true", "-Z", "18446744073709551616"],
        ["-c", "true", "--max-allocs", "0"],
        ["-c", "true", "--max-allocs", "4294967297"],
        ["-c", "true", "--max-stacks", "0"],
        ["-c", "'unbalanced"],
        ["-c", ""],
        ["--no-such-option"],
    ],
    ids=" ".join,
)
def test_usage(arguments: list[str]) -> None:
    check(run_leaktrace(*arguments), USAGE)


# --- the target --------------------------------------------------------------------------------


def unused_pid() -> int:
    """A process id that is free: that of a child which has been waited for."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


@pytest.mark.usefixtures("require_bpf")
def test_no_such_process() -> None:
    check(run_leaktrace("-p", str(unused_pid()), "1", "1"), TARGET)
    check(run_leaktrace("-p", "99999999999999999999", "1", "1"), TARGET)


@pytest.mark.usefixtures("require_bpf")
def test_a_kernel_thread() -> None:
    if not Path("/proc/2/comm").exists() or Path("/proc/2/comm").read_text() != "kthreadd\n":
        pytest.skip("no kernel threads in this pid namespace")
    check(run_leaktrace("-p", "2", "1", "1"), TARGET)


@pytest.mark.usefixtures("require_bpf")
def test_a_zombie() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    try:
        check(run_leaktrace("-p", str(child), "1", "1"), TARGET)
    finally:
        os.waitpid(child, 0)


@pytest.mark.usefixtures("require_bpf")
def test_a_thread_is_not_a_process(compiled: Compiler) -> None:
    with Target([compiled("threads.c")]) as target:
        target.await_ready()
        threads = {int(entry.name) for entry in Path(f"/proc/{target.pid}/task").iterdir()}
        tid = min(threads - {target.pid})
        outcome = run_leaktrace("-p", str(tid), "1", "1")
    check(outcome, TARGET)
    assert str(target.pid) in outcome.stderr


@pytest.mark.usefixtures("require_bpf")
def test_a_command_that_does_not_exist(tmp_path: Path) -> None:
    check(run_leaktrace("-c", str(tmp_path / "nothing"), "1", "1"), TARGET)


@pytest.mark.usefixtures("require_bpf")
def test_a_command_that_is_not_executable(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("no program")
    check(run_leaktrace("-c", str(text), "1", "1"), TARGET)


# --- objects -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("require_bpf")
def test_obj_does_not_exist(target: Target, tmp_path: Path) -> None:
    check(run_leaktrace("-p", str(target.pid), "-O", tmp_path / "nothing", "1", "1"), RUNTIME)


@pytest.mark.usefixtures("require_bpf")
def test_obj_is_not_elf(target: Target) -> None:
    outcome = run_leaktrace("-p", str(target.pid), "-O", Path(__file__), "1", "1")
    check(outcome, RUNTIME)
    assert names(outcome.stderr, __file__, "ELF")


@pytest.mark.usefixtures("require_bpf")
@pytest.mark.parametrize("length", [0, 4, 16, 63, 64, 100, 1000, 5000])
def test_obj_is_a_truncated_elf(
    target: Target, length: int, compiled: Compiler, tmp_path: Path
) -> None:
    cut = tmp_path / "cut"
    cut.write_bytes(compiled("own_allocator.c").read_bytes()[:length])
    check(run_leaktrace("-p", str(target.pid), "-O", cut, "1", "1"), RUNTIME)


@pytest.mark.usefixtures("require_bpf")
def test_obj_has_no_malloc(target: Target, compiled: Compiler) -> None:
    outcome = run_leaktrace("-p", str(target.pid), "-O", compiled("commands.c"), "1", "1")
    check(outcome, RUNTIME)
    assert "malloc" in outcome.stderr


@pytest.mark.usefixtures("require_bpf")
def test_prefix_matches_nothing(target: Target, compiled: Compiler) -> None:
    outcome = run_leaktrace(
        "-p", str(target.pid), "-O", compiled("own_allocator.c"), "--symbols-prefix", "your_", "1"
    )
    check(outcome, RUNTIME)
    assert "your_malloc" in outcome.stderr


# --- output ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("require_bpf")
def test_output_in_a_missing_folder(target: Target, tmp_path: Path) -> None:
    output = tmp_path / "missing" / "report"
    outcome = run_leaktrace("-p", str(target.pid), "--output", output, "0.1", "1")
    check(outcome, RUNTIME)
    assert "missing" in outcome.stderr


@pytest.mark.usefixtures("require_bpf")
def test_output_is_a_folder(target: Target, tmp_path: Path) -> None:
    check(run_leaktrace("-p", str(target.pid), "--output", tmp_path, "0.1", "1"), RUNTIME)


@pytest.mark.usefixtures("require_bpf")
def test_output_device_is_full(target: Target) -> None:
    outcome = run_leaktrace("-p", str(target.pid), "--output", "/dev/full", "0.1", "1")
    check(outcome, RUNTIME)


# --- privilege ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("require_root")
def test_without_privilege(target: Target) -> None:
    nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    nobody += ["--inh-caps", "-all", "--bounding-set", "-all"]
    outcome = run_leaktrace("-p", str(target.pid), "1", "1", prefix=nobody)
    check(outcome, UNFIT)
    assert "root" in outcome.stderr or "CAP_" in outcome.stderr


@pytest.mark.usefixtures("require_root")
def test_root_without_capabilities(target: Target) -> None:
    """As in a container: uid 0 alone is not the privilege."""
    stripped = ["setpriv", "--inh-caps", "-all", "--bounding-set", "-all"]
    outcome = run_leaktrace("-p", str(target.pid), "1", "1", prefix=stripped)
    check(outcome, UNFIT)
    assert "CAP_" in outcome.stderr


@pytest.mark.usefixtures("require_root")
def test_a_locked_down_kernel(target: Target, tmp_path: Path) -> None:
    """In a mount namespace where the kernel seems to be locked down."""
    security = Path("/sys/kernel/security")
    if not security.is_dir():
        pytest.skip("this kernel has no securityfs to put something else over")
    (tmp_path / "lockdown").write_text("none integrity [confidentiality]\n")
    mount = f'mount --bind "{tmp_path}" {security} && exec "$@"'
    outcome = run_leaktrace(
        "-p", str(target.pid), "1", "1", prefix=["unshare", "--mount", "sh", "-c", mount, "sh"]
    )
    check(outcome, UNFIT)
    assert "lockdown" in outcome.stderr
