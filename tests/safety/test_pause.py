"""A process that was stopped for a moment goes on as if nothing had been, whoever is killed
meanwhile; and what was read of it is exact."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from harness.compiling import Compiler
from harness.length import repetitions
from harness.lines import DEADLINE_S
from harness.marked import Mark
from harness.privileges import anybodys_python, nobody_with
from harness.processes import await_stopped, await_true, children
from harness.target import Target
from harness.tracer import Tracer

from leaktrace.errors import TargetError
from leaktrace.targets.pause import Pause

pytestmark = [
    pytest.mark.usefixtures("require_root"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="registers are known on x86-64 only"),
]

LONG_MS = 10_000  # no test waits for it
KILLS = repetitions(10, 30)
STOPS = repetitions(25, 100)
Start = Callable[..., Target]


@pytest.fixture
def start(compiled: Compiler) -> Iterator[Start]:
    """Starts tests/programs/paused.c."""
    with contextlib.ExitStack() as stack:

        def started(*commands: str) -> Target:
            target = stack.enter_context(Target([compiled("paused.c"), *commands]))
            return target.await_ready()

        yield started


def threads(pid: int) -> dict[int, tuple[str, int]]:
    """State and tracer of each thread that has not ended (proc_pid_status(5))."""
    found = {}
    for folder in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            lines = (folder / "status").read_text().splitlines()
            fields = dict(line.partition(":")[::2] for line in lines)
            state = fields["State"].split()[0]
            if state not in "ZX":
                found[int(folder.name)] = state, int(fields["TracerPid"])
    return found


def tracers(pid: int) -> set[int]:
    return {tracer for _, tracer in threads(pid).values()}


def states(pid: int) -> set[str]:
    return {state for state, _ in threads(pid).values()}


def goes_on(target: Target) -> None:
    """No thread is stopped or traced, and what the target does is right."""
    await_true(lambda: tracers(target.pid) == {0})
    *_, steps, mistakes = target.do()
    assert not states(target.pid) & {"t", "T"}
    assert mistakes == 0
    if steps:
        await_true(lambda: target.do()[3] > steps)


def test_every_thread_is_stopped(start: Start) -> None:
    """Of a thousand, some of which start and end threads all the time."""
    target = start("work", "threads", "1000")
    with Pause(target.pid, LONG_MS) as pause:
        stopped = threads(target.pid)
        assert {state for state, _ in stopped.values()} == {"t"}
        assert pause.still_holds()
        assert {one.tid for one in pause.threads} == set(stopped)
        assert threads(target.pid) == stopped
        assert len(stopped) >= 1003
    assert (pause.late, pause.given_up, pause.still_holds()) == (0, False, False)
    assert 0 < pause.took_s < LONG_MS / 1000
    goes_on(target)
    assert target.end() == 0


def test_registers(start: Start) -> None:
    """Those of a vector, too; and where the stack is."""
    target = start("vector")
    calls = {}
    with Pause(target.pid, LONG_MS) as pause:
        for tid in threads(target.pid):
            # Number, six arguments, stack and instruction pointer (proc_pid_syscall(5)).
            words = Path(f"/proc/{target.pid}/task/{tid}/syscall").read_text().split()
            calls[tid] = int(words[-2], 16), int(words[-1], 16)
    lines, _ = target.run_out()
    (told,) = (line for line in lines if line.startswith("vector"))
    value = np.uint64(int(told.split()[1]))
    assert calls == {one.tid: (one.stack_pointer, one.instruction_pointer) for one in pause.threads}
    with_value = [one for one in pause.threads if value in one.words]
    assert len(with_value) == 1
    assert np.count_nonzero(with_value[0].words == value) == 1
    assert not any(np.uint64(one.stack_pointer) in one.words[:15] for one in pause.threads)
    pointers = {one.thread_pointer for one in pause.threads}
    assert len(pointers) == len(pause.threads)
    assert 0 not in pointers


def test_a_first_thread_that_has_ended(start: Start) -> None:
    target = start("leave", "work")
    await_true(lambda: "Z" in Path(f"/proc/{target.pid}/stat").read_text().rpartition(")")[2])
    with Pause(target.pid, LONG_MS) as pause:
        assert {one.tid for one in pause.threads} == set(threads(target.pid))
        assert states(target.pid) == {"t"}
    goes_on(target)
    assert target.end() == 0


def test_a_thread_that_can_not_be_stopped(start: Start) -> None:
    """It waits in vfork(2) until its child executes a program or ends."""
    target = start("work", "vfork")
    await_true(lambda: "D" in states(target.pid))
    with Pause(target.pid, LONG_MS) as pause:
        assert pause.late == 1
        assert len(pause.threads) == len(threads(target.pid)) - 1
    await_true(lambda: tracers(target.pid) == {0})
    (child,) = children(target.pid)
    goes_on(target)
    os.kill(child, signal.SIGKILL)
    await_true(lambda: "D" not in states(target.pid))
    goes_on(target)
    assert target.end() == 0


def test_a_process_that_a_signal_has_stopped(start: Start) -> None:
    """It stays stopped, and SIGCONT continues it."""
    target = start("signals", "work")
    os.kill(target.pid, signal.SIGSTOP)
    await_stopped(target.pid)
    for _ in range(3):
        with Pause(target.pid, LONG_MS) as pause:
            assert states(target.pid) == {"t"}
            assert pause.late == 0
        await_true(lambda: tracers(target.pid) == {0})
        await_true(lambda: states(target.pid) == {"T"})
    os.kill(target.pid, signal.SIGCONT)
    goes_on(target)
    assert target.do()[2] == 1


def test_signals_that_come_meanwhile(start: Start) -> None:
    target = start("signals", "work")
    os.kill(target.pid, signal.SIGSTOP)
    await_stopped(target.pid)
    with Pause(target.pid, LONG_MS):
        os.kill(target.pid, signal.SIGCONT)
        assert states(target.pid) == {"t"}
    goes_on(target)
    assert target.do()[2] == 1
    with Pause(target.pid, LONG_MS):
        os.kill(target.pid, signal.SIGSTOP)
    await_stopped(target.pid)
    os.kill(target.pid, signal.SIGCONT)
    goes_on(target)
    assert target.do()[2] == 2


def test_no_signal_is_lost(start: Start) -> None:
    """They come all the while, also just when a thread is to stop."""
    target, sent, is_over = start("signals", "raises"), [0, 0], threading.Event()
    queue = ctypes.CDLL(None).sigqueue

    def send() -> None:
        while not is_over.is_set():
            value = ctypes.c_void_p(sent[0] % 1000)
            if queue(target.pid, signal.SIGRTMIN, value) == 0:
                sent[0], sent[1] = sent[0] + 1, sent[1] + (value.value or 0)
            time.sleep(0.00005)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        for _ in range(STOPS):
            with Pause(target.pid, LONG_MS):
                pass
    finally:
        is_over.set()
        sender.join()
    assert sent[0] > STOPS
    await_true(lambda: target.do()[0] == sent[0])
    assert target.do()[1] == sent[1]
    goes_on(target)
    assert target.end() == 0


def test_many_stops_of_a_busy_process(start: Start) -> None:
    target = start("work", "work", "threads", "2")
    for _ in range(STOPS):
        with Pause(target.pid, LONG_MS) as pause:
            assert pause.still_holds()
        assert not pause.given_up
    goes_on(target)
    assert target.end() == 0


def test_a_process_that_is_traced(start: Start) -> None:
    target = start("work")
    with Pause(target.pid, LONG_MS) as first:
        (tracer,) = tracers(target.pid)
        with pytest.raises(TargetError) as caught, Pause(target.pid):
            pass
        assert first.still_holds()
        assert tracers(target.pid) == {tracer}
    assert f"process {tracer})" in caught.value.message
    assert caught.value.hint
    goes_on(target)


def test_a_process_that_ends(start: Start) -> None:
    target = start("threads", "5")
    with Pause(target.pid, LONG_MS):
        target.process.kill()
        await_true(lambda: not threads(target.pid))
    target.process.wait(DEADLINE_S)
    other = start()
    early = Pause(other.pid)
    other.end()
    for one in (early, None):
        with pytest.raises(TargetError, match="has ended") as caught, one or Pause(target.pid):
            pass
        assert caught.value.hint


def test_a_zombie() -> None:
    zombie = os.fork()
    if zombie == 0:
        os._exit(0)
    await_true(lambda: ") Z " in Path(f"/proc/{zombie}/stat").read_text())
    with pytest.raises(TargetError, match="has ended"), Pause(zombie):
        pass
    os.waitpid(zombie, 0)


def test_the_time_is_up(start: Start) -> None:
    """The process goes on although nobody has let it go."""
    target = start("work")
    with Pause(target.pid, 20) as pause:
        await_true(lambda: not pause.still_holds())
        goes_on(target)
    assert pause.given_up
    assert pause.took_s >= 0.02


def test_too_little_time_for_so_many_threads(start: Start) -> None:
    """Not all could be stopped, or their registers read: nothing is known of any."""
    target = start("work", "threads", "1000")
    with Pause(target.pid, 1) as pause:
        assert not pause.still_holds()
        assert pause.threads == ()
    assert pause.given_up
    goes_on(target)
    assert target.end() == 0


def hold_for_ever(pid: int, most_ms: int, told: int) -> None:
    """In a process of its own: stop a process, say so, and go on."""
    with Pause(pid, most_ms):
        os.write(told, b"x")
        time.sleep(DEADLINE_S)


@contextlib.contextmanager
def another(work: Callable[[int], None]) -> Iterator[tuple[int, int]]:
    """A copy of this process that works: its pid, and what it tells."""
    heard, told = os.pipe()
    copy = os.fork()
    if copy == 0:
        with contextlib.suppress(BaseException):
            work(told)
        os._exit(0)
    os.close(told)
    try:
        yield copy, heard
    finally:
        os.kill(copy, signal.SIGKILL)
        os.waitpid(copy, 0)
        os.close(heard)


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGSTOP])
def test_leaktrace_is_killed_or_stopped(start: Start, by: signal.Signals) -> None:
    target = start("work", "threads", "20")
    most_ms = LONG_MS if by == signal.SIGKILL else 100
    with another(lambda told: hold_for_ever(target.pid, most_ms, told)) as (copy, heard):
        assert os.read(heard, 1) == b"x"
        os.kill(copy, by)
        goes_on(target)
    assert target.end() == 0


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM])
def test_the_child_is_killed_or_stopped(start: Start, by: signal.Signals) -> None:
    """SIGSTOP: the kernel's timer kills it."""
    target = start("work", "threads", "20")
    most_ms = 100 if by == signal.SIGSTOP else LONG_MS
    with Pause(target.pid, most_ms) as pause:
        (child,) = tracers(target.pid)
        os.kill(child, by)
        await_true(lambda: not pause.still_holds())
        goes_on(target)
    assert pause.given_up
    assert target.end() == 0


def test_leaktrace_is_killed_at_any_moment(start: Start) -> None:
    target, moments = start("work", "threads", "200"), random.Random(20261202)

    def stop_once(told: int) -> None:
        pause = Pause(target.pid, LONG_MS)
        os.write(told, b"x")
        with pause:
            time.sleep(0.02)

    for _ in range(KILLS):
        with another(stop_once) as (copy, heard):
            assert os.read(heard, 1) == b"x"
            time.sleep(0.12 * moments.random())
            os.kill(copy, signal.SIGKILL)
            await_true(lambda: tracers(target.pid) == {0})
        goes_on(target)
    assert target.end() == 0


@pytest.mark.usefixtures("require_bpf")
def test_leaktrace_is_killed_while_it_looks(compiled: Compiler) -> None:
    """With --lost --stop, and so much memory that a stop takes tens of milliseconds."""
    with Target([compiled("bench_lost.c"), "1000", "400"]) as target:
        target.await_ready()
        target.do()
        for _ in range(repetitions(1, 10)):
            mark = Mark()
            options = ("--lost", "--stop", "--max-pause-ms", str(LONG_MS), "0.1")
            with Tracer("-p", str(target.pid), *options, env=mark.env) as tracer:
                tracer.await_armed()
                await_true(lambda: tracers(target.pid) != {0})
                tracer.process.kill()
                await_true(lambda: tracers(target.pid) == {0})
                tracer.process.wait(DEADLINE_S)
            mark.await_end()
            (followed,) = target.do()
            await_true(lambda before=followed: target.do()[0] > before)  # type: ignore[misc]
            assert not states(target.pid) & {"t", "T"}


@pytest.mark.may_skip("not every machine has a Python that the user nobody can run")
def test_without_the_privilege(start: Start, require_tool: Callable[[str], str]) -> None:
    require_tool("setpriv")
    target = start("work")
    python, environment = anybodys_python()
    script = (
        "from leaktrace.errors import TargetAccessError\n"
        "from leaktrace.targets.pause import Pause\n"
        "try:\n"
        f"    with Pause({target.pid}): print('stopped')\n"
        "except TargetAccessError as error:\n"
        "    print(error.message, error.hint)\n"
    )
    done = subprocess.run(
        [*nobody_with(), "env", python, "-c", script],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "CAP_SYS_PTRACE is missing" in done.stdout
    goes_on(target)


def test_the_child_is_killed_at_any_moment(start: Start) -> None:
    target, moments = start("work", "threads", "200"), random.Random(20261203)
    for _ in range(KILLS):
        pause = Pause(target.pid, LONG_MS)
        await_true(lambda: len(children_of_pause()) == 1)
        (child,) = children_of_pause()
        killer = threading.Timer(0.12 * moments.random(), os.kill, (child, signal.SIGKILL))
        killer.start()
        with contextlib.suppress(Exception), pause:
            await_true(lambda one=pause: not one.still_holds())  # type: ignore[misc]
        killer.join()
        goes_on(target)
    assert target.end() == 0


def children_of_pause() -> list[int]:
    return [
        pid
        for pid in children(os.getpid())
        if b"pause_child.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
