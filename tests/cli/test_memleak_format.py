"""A script made for memleak works with leaktrace: bcc's own test of memleak, rewritten.

The command waits for a byte on its standard input, which it shares with leaktrace; it is sent after
the first report. Then the command leaks an exact number of bytes and exits, and the last line that
mentions bytes must begin with that number.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable

import pytest
from harness.compiling import Compiler
from harness.lines import DEADLINE_S, Lines
from harness.target import Target
from harness.tracer import COMMAND, NEVER, Tracer, tracer_environment

pytestmark = pytest.mark.usefixtures("require_bpf")

AMOUNT = 30000
KINDS = (
    "malloc", "calloc", "realloc", "posix_memalign", "valloc", "memalign", "pvalloc",
    "aligned_alloc", "mmap",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_amount_is_exact(kind: str, compiled: Compiler, require_tool: Callable[[str], str]) -> None:
    program = compiled("kinds.c")
    for tool in ("stdbuf", "timeout"):
        require_tool(tool)
    unbuffered = "stdbuf -o 0 -i 0 timeout -s KILL 90s"
    leak = shlex.quote(f"{program} {kind} {AMOUNT}")
    command = f"{unbuffered} {shlex.join(COMMAND)} --format memleak -c {leak} -T 1 1 2"
    with subprocess.Popen(
        command,
        shell=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=tracer_environment(),
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdin is not None
            output = Lines(process.stdout, "leaktrace")
            output.until(lambda line: "with outstanding allocations" in line)
            process.stdin.write(b"\n")
            process.stdin.flush()
            output.rest()
            assert process.wait(DEADLINE_S) == 0
        finally:
            if process.poll() is None:
                process.kill()
    last = [line for line in output.seen if "byte" in line][-1]
    assert int(last.split()[0]) == AMOUNT


def memleak_report(compiled: Compiler, *options: str) -> list[str]:
    with Target([compiled("functions.c")]) as target:
        target.await_ready()
        arguments = ["-p", str(target.pid), "--format", "memleak", "-o", "0", *options, NEVER]
        with Tracer(*arguments) as tracer:
            tracer.await_armed()
            target.do()
            outcome = tracer.stop()
        assert target.end() == 0
    assert outcome.exit_code == 0, outcome.stderr
    return outcome.stdout.splitlines()


def test_lines_are_memleaks(compiled: Compiler) -> None:
    lines = memleak_report(compiled, "-T", "5")
    assert re.fullmatch(r"Attaching to pid \d+, Ctrl\+C to quit\.", lines[0])
    assert re.fullmatch(r"\[\d\d:\d\d:\d\d\] Top 5 stacks with outstanding allocations:", lines[1])
    amounts = []
    for line in lines[2:]:
        if amount := re.fullmatch(r"\t(\d+) bytes in \d+ allocations from stack", line):
            amounts.append(int(amount[1]))
        else:
            assert re.fullmatch(r"\t\t0x[0-9a-f]{16}\t\S+(\+0x[0-9a-f]+)? \[.+\]", line), line
    assert len(amounts) == 5
    assert amounts == sorted(amounts)
    assert amounts[-1] == 128 << 20


def test_combined_lines_have_no_addresses(compiled: Compiler) -> None:
    lines = memleak_report(compiled, "--combined-only", "-T", "3")
    frames = [line for line in lines if line.startswith("\t\t")]
    assert frames
    for line in frames:
        assert re.fullmatch(r"\t\t\S+(\+0x[0-9a-f]+)? \[.+\]", line), line


def test_output_is_flushed_line_by_line_without_a_terminal(compiled: Compiler) -> None:
    """Reports arrive while leaktrace is running, also in a pipe."""
    with Target([compiled("commands.c")]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), "--format", "memleak", "0.1") as tracer:
            for _ in range(3):
                tracer.stdout.until(lambda line: "with outstanding allocations" in line)
            assert tracer.process.poll() is None
            assert tracer.stop().exit_code == 0
        assert target.end() == 0
