"""Registers of running threads, compared with what the threads say and what /proc says."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from harness.compiling import Compiler
from harness.privileges import anybodys_python, nobody_with
from harness.processes import await_true, children
from harness.target import Target

from leaktrace.arch import x86_64
from leaktrace.errors import EnvironmentUnfitError
from leaktrace.process.registers import RegisterReader
from leaktrace.targets.thread_registers import Registers

pytestmark = [
    pytest.mark.usefixtures("require_bpf"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="registers are known on x86-64 only"),
]

PAUSE = "34"  # its number as a system call
MANY = 500


@dataclass(frozen=True)
class Held:
    """What a thread says about itself."""

    fs_base: int
    values: tuple[int, ...]  # rbx, r12 to r15


@pytest.fixture(scope="module")
def reader() -> Iterator[RegisterReader]:
    with closing(RegisterReader()) as reader:
        yield reader


def threads(pid: int) -> list[int]:
    return sorted(int(folder.name) for folder in Path(f"/proc/{pid}/task").iterdir())


def system_call(pid: int, tid: int) -> list[str]:
    """Number, six arguments, stack pointer and instruction pointer (proc_pid_syscall(5)); one word
    of a thread that runs."""
    return Path(f"/proc/{pid}/task/{tid}/syscall").read_text().split()


def states(pid: int) -> set[str]:
    """Of the threads (proc_pid_stat(5))."""
    found = set()
    for file in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            found.add(file.read_text().rpartition(")")[2].split()[0])
    return found


def await_waiting(pid: int, count: int) -> list[int]:
    """Wait until that many threads are in pause(2). Returns which."""

    def waiting() -> list[int]:
        return [tid for tid in threads(pid) if system_call(pid, tid)[0] == PAUSE]

    await_true(lambda: len(waiting()) == count)
    return waiting()


def held_by_threads(lines: list[str]) -> dict[int, Held]:
    rows = [[int(word) for word in line.split()[1:]] for line in lines if line.startswith("holds ")]
    return {tid: Held(fs_base, tuple(values)) for tid, fs_base, *values in rows}


def held(registers: Registers, row: int) -> Held:
    """The same as the kernel says it. struct pt_regs begins with r15."""
    r15, r14, r13, r12 = registers.words[row, :4].tolist()
    rbx = int(registers.words[row, x86_64.SAVED_RBX])
    return Held(int(registers.thread_pointers[row]), (rbx, r12, r13, r14, r15))


@pytest.mark.parametrize("count", [4, MANY])
def test_values_that_are_only_in_registers(
    compiled: Compiler, reader: RegisterReader, count: int
) -> None:
    with Target([compiled("registers.c"), str(count)]) as target:
        target.await_ready()
        waiting = await_waiting(target.pid, count)
        stack_pointers = {tid: int(system_call(target.pid, tid)[7], 16) for tid in waiting}
        registers = reader.read(target.pid)
        assert states(target.pid) <= {"R", "S"}  # neither stopped nor traced
        assert registers.tids.tolist() == threads(target.pid)
        lines, status = target.run_out()
    assert status == 0
    rows = [row for row, tid in enumerate(registers.tids.tolist()) if tid in stack_pointers]
    ours = {int(registers.tids[row]): held(registers, row) for row in rows}
    assert ours == held_by_threads(lines)
    assert not registers.is_running[rows].any()
    assert {
        int(registers.tids[row]): int(registers.stack_pointers[row]) for row in rows
    } == stack_pointers


def test_a_thread_that_runs(compiled: Compiler, reader: RegisterReader) -> None:
    with Target([compiled("registers.c"), "2", "spin"]) as target:
        target.await_ready()
        waiting = await_waiting(target.pid, 2)
        (running,) = set(threads(target.pid)) - {target.pid, *waiting}

        def is_running() -> bool:
            registers = reader.read(target.pid)
            found = dict(zip(registers.tids.tolist(), registers.is_running.tolist(), strict=True))
            assert not any(found[tid] for tid in waiting)
            return found[running] is True

        await_true(is_running)
        assert states(target.pid) <= {"R", "S"}
        assert target.end() == 0


def test_a_first_thread_that_has_ended(compiled: Compiler, reader: RegisterReader) -> None:
    """It is a zombie until the others have ended."""
    with Target([compiled("registers.c"), "3"]) as target:
        target.await_ready()
        waiting = await_waiting(target.pid, 3)
        target.send("leave")
        await_true(lambda: "Z" in states(target.pid))
        assert reader.read(target.pid).tids.tolist() == waiting


def test_a_process_that_has_ended(compiled: Compiler, reader: RegisterReader) -> None:
    with Target([compiled("registers.c"), "2"]) as target:
        target.await_ready()
        assert len(reader.read(target.pid).tids) == 3
        target.send()
        await_true(lambda: states(target.pid) == {"Z"})  # its parent hasn't waited for it yet
        zombie = reader.read(target.pid)
        target.end()
    for registers in (zombie, reader.read(target.pid), reader.read(0)):
        assert registers.words.shape == (0, 15)
        assert registers.tids.shape == registers.stack_pointers.shape == (0,)


def test_only_the_process_that_was_asked_for(compiled: Compiler, reader: RegisterReader) -> None:
    ours = reader.read(os.getpid())
    assert os.getpid() in ours.tids.tolist()
    program = compiled("registers.c")
    with Target([program, "2"]) as one, Target([program, "5"]) as other:
        for target, count in ((one.await_ready(), 2), (other.await_ready(), 5)):
            registers = reader.read(target.pid)
            assert len(registers.tids) == 1 + count
            assert np.all(registers.stack_pointers > 0)


def test_a_process_in_another_pid_namespace(
    compiled: Compiler, reader: RegisterReader, require_tool: Callable[[str], str]
) -> None:
    unshare = [require_tool("unshare"), "--pid", "--fork", "--kill-child"]
    with Target([*unshare, compiled("registers.c"), "3"]) as target:
        target.await_ready()
        (pid,) = children(target.pid)
        assert reader.read(pid).tids.tolist() == threads(pid)


# Says how many threads of a process there are, and how many have a value in rbx that begins as
# theirs do.
COUNTER = textwrap.dedent(
    f"""
    import subprocess, sys
    from contextlib import closing
    from leaktrace.process.registers import RegisterReader
    from leaktrace.targets.namespaces import pids_are_global

    argv = [*sys.argv[1:], "6"]
    child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    while child.stdout.readline() != "ready\\n":
        pass
    with closing(RegisterReader()) as reader:
        holding = 0
        while holding < 6:
            registers = reader.read(child.pid)
            holding = int((registers.words[:, {x86_64.SAVED_RBX}] >> 52 == 0xA11).sum())
        child.communicate("go\\n")
        print(len(registers.tids), holding, len(reader.read(child.pid).tids), pids_are_global())
    """
)


def test_a_pid_namespace_with_leaktrace_in_it(
    compiled: Compiler, require_tool: Callable[[str], str]
) -> None:
    """Where the kernel can choose a process by its id in there (Linux 6.1)."""
    unshare = [require_tool("unshare"), "--pid", "--fork", "--mount-proc", "--kill-child"]
    command = [*unshare, sys.executable, "-c", COUNTER, str(compiled("registers.c"))]
    counted = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    if "before Linux 6.1" in counted.stderr:
        return
    assert counted.stdout == "7 6 0 False\n", counted.stderr


@pytest.mark.may_skip("not every machine has a Python that the user nobody can run")
@pytest.mark.parametrize("granted", [(), ("bpf",), ("bpf", "perfmon")])
def test_privileges(require_tool: Callable[[str], str], granted: tuple[str, ...]) -> None:
    require_tool("setpriv")
    python, environment = anybodys_python()
    script = textwrap.dedent(
        """
        import os
        from contextlib import closing
        from leaktrace.errors import EnvironmentUnfitError
        from leaktrace.process.registers import RegisterReader

        try:
            with closing(RegisterReader()) as reader:
                tids = reader.read(os.getpid()).tids
                print(sorted(map(int, os.listdir("/proc/self/task"))) == tids.tolist())
        except EnvironmentUnfitError as error:
            print(error.message)
        """
    )
    command = [*nobody_with(granted), "env", python, "-c", script]
    done = subprocess.run(
        command,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    is_enough = granted == ("bpf", "perfmon")
    expected = "True" if is_enough else "the kernel does not permit loading BPF programs"
    assert done.stdout.strip() == expected, done.stderr


def test_a_kernel_without_the_iterator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEAKTRACE_WITHOUT", "registers")
    with pytest.raises(EnvironmentUnfitError, match="this kernel can't say") as caught:
        RegisterReader()
    assert "Linux 5.15" in caught.value.hint
