"""What other tools may have left in the code of a process: breakpoints of killed tracers, of
debuggers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from harness.changed_text import Changed, Watch, changed_bytes
from harness.lines import DEADLINE_S
from harness.probes import offset_of
from harness.tracer import tracer_environment

_ATTEMPTS = 150
_TRACER = """
import os, sys
from leaktrace.bpf import links, support
pid, path, *offsets = sys.argv[1:]
program = support.load_empty_program(links.UprobeLinks.TOGETHER.attach_type)
places = [int(word) for word in offsets]
link = links.attach_uprobes(program, path, places, [0] * len(places), pid=int(pid))
print("on", flush=True)
sys.stdin.readline()
os.close(link)
"""
_DEBUGGER = """
import ctypes, sys
PTRACE_SEIZE = 0x4206
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
assert libc.ptrace(PTRACE_SEIZE, int(sys.argv[1]), None, None) == 0
print("on", flush=True)
sys.stdin.readline()
"""


def libc_of(pid: int) -> Path:
    """The C library that a process has mapped."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return next(Path(line.split()[-1]) for line in lines if "/libc.so.6" in line)


def breakpoints_left(pid: int, functions: Sequence[str]) -> list[Changed]:
    """Attach probes to functions of the C library in a tracer, and kill it while it detaches them,
    until breakpoints remain. Returns those."""
    path = libc_of(pid)
    places = [str(offset_of(path, function)) for function in functions]
    before = {one.address for one in changed_bytes(pid)}
    for _ in range(_ATTEMPTS):
        with _running(_TRACER, str(pid), str(path), *places) as tracer:
            on = [one for one in changed_bytes(pid) if one.address not in before]
            with Watch.of(pid, on) as watch:
                tracer.stdin.write(b"\n")
                tracer.stdin.flush()
                watch.await_fewer()
                tracer.kill()
                tracer.wait(DEADLINE_S)
        left = [one for one in changed_bytes(pid) if one.address not in before]
        if left:
            return left
    raise AssertionError("the kernel has cleaned up after each kill")


@contextmanager
def debugged(pid: int) -> Iterator[int]:
    """A process traced by ptrace(2), running on. Gives the tracer's pid."""
    with _running(_DEBUGGER, str(pid)) as debugger:
        yield debugger.pid


@contextmanager
def patched(pid: int, function: str, code: bytes) -> Iterator[None]:
    """The code of a function of the C library is replaced, as a debugger does it."""
    path = libc_of(pid)
    offset = offset_of(path, function)
    fields = next(
        line.split()
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines()
        if line.endswith(str(path)) and "x" in line.split()[1]
    )
    address = int(fields[0].split("-")[0], 16) + offset - int(fields[2], 16)
    with Path(f"/proc/{pid}/mem").open("r+b", buffering=0) as memory:
        original = os.pread(memory.fileno(), len(code), address)
        os.pwrite(memory.fileno(), code, address)
        try:
            yield
        finally:
            os.pwrite(memory.fileno(), original, address)


class _Running:
    """A Python process with two pipes."""

    def __init__(self, program: str, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", program, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=tracer_environment(),
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self.stdin = self._process.stdin
        self.pid = self._process.pid
        assert self._process.stdout.readline() == b"on\n"

    def kill(self) -> None:
        self._process.kill()

    def wait(self, deadline_s: float) -> None:
        self._process.wait(deadline_s)

    def close(self) -> None:
        self._process.kill()
        self.stdin.close()
        self._process.wait(DEADLINE_S)
        assert self._process.stdout is not None
        self._process.stdout.close()


@contextmanager
def _running(program: str, *arguments: str) -> Iterator[_Running]:
    running = _Running(program, *arguments)
    try:
        yield running
    finally:
        running.close()
