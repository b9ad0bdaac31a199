"""Real programs as distributions ship them: nearly every stack reaches its outermost frame."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness.compiling import Compiler
from harness.lines import DEADLINE_S, Lines
from harness.target import Target

from leaktrace.analysis.trim import readable
from leaktrace.options import ProcessOptions, ProcessTarget, ReportOptions
from leaktrace.process.setup import open_tracer
from leaktrace.site import Stack, StackEnd

pytestmark = pytest.mark.usefixtures("require_bpf")

REQUIRED = 0.995
ENOUGH = 20_000  # allocations
OUTERMOST = {"main", "__libc_start_main", "start_thread", "clone3", "clone", "__clone3", "_start"}

PYTHON = """
import collections, json, re, sys, threading
print("ready", flush=True)
sys.stdin.readline()

def work():
    while True:
        text = json.dumps({str(i): [i, "y" * i, {"z": float(i)}] for i in range(40)})
        collections.Counter(re.findall("[a-z]+", text + str(json.loads(text))))
        sorted(map(str, range(50)), key=lambda word: word * 3)
        try:
            raise ValueError("x" * 600)
        except ValueError as error:
            str(error)
        exec(compile("def f(*b):\\n    return [a for a in b if a > 3]\\nf(1, 2, 3)", "", "exec"))

threading.Thread(target=work, daemon=True).start()
work()
"""

PERL = r"""
$| = 1; print "ready\n"; <STDIN>;
sub tree { my $d = shift; return $d ? { l => tree($d - 1), r => [tree($d - 1)] } : "x" x 600 }
while (1) {
    tree(5);
    my $text = join ",", map { $_ * 3 } sort { "$a$b" cmp "$b$a" } 1 .. 60;
    $text =~ s/(\d+)/sprintf("%08d", $1) . lc("AB$1")/ge;
    my %seen; $seen{$_}++ for split /,/, $text;
    eval 'sub { my @a = @_; map { $_ . "z" x 20 } @a }->(1 .. 5)';
}
"""


@dataclass(frozen=True)
class Seen:
    """Every stack since tracing began, with how many allocations came from it."""

    stacks: dict[int, Stack]
    counts: dict[int, int]

    def share(self, wanted: Callable[[Stack], bool]) -> tuple[float, float]:
        """The shares of the stacks and of the allocations that meet the condition."""
        chosen = [key for key, stack in self.stacks.items() if wanted(stack)]
        count = sum(self.counts[key] for key in chosen)
        return len(chosen) / len(self.stacks), count / sum(self.counts.values())

    def assert_complete(self) -> None:
        assert min(self.share(lambda stack: stack.end is StackEnd.COMPLETE)) >= REQUIRED, self.bad()
        assert min(self.share(reaches_the_start)) >= REQUIRED, self.bad()

    def bad(self) -> str:
        return "\n".join(
            f"{self.counts[key]} x {stack.end.value}: {[frame.function for frame in stack.frames]}"
            for key, stack in self.stacks.items()
            if stack.end is not StackEnd.COMPLETE or not reaches_the_start(stack)
        )


def reaches_the_start(stack: Stack) -> bool:
    return any((frame.function or "").partition("@")[0] in OUTERMOST for frame in stack.frames[-4:])


def trace_stacks(pid: int, begin: Callable[[], object], *, lines: bool = False) -> Seen:
    """Trace a process from `begin` until it has allocated often enough."""
    report = ReportOptions(lines=lines, inlines=False)
    tracer = open_tracer(ProcessOptions(target=ProcessTarget((pid,)), report=report))
    deadline_s = time.monotonic() + DEADLINE_S
    try:
        tracer.arm()
        begin()
        while True:
            tracer.pump()
            found = tracer.snapshot()
            counts = found.sites["allocated_count"]
            if counts.sum() >= ENOUGH:
                break
            assert time.monotonic() < deadline_s, f"only {counts.sum()} allocations"
            time.sleep(0.02)
        ids = found.site_ids.tolist()
        tracer.names.expect_last_report()
        tracer.names.prepare(ids)
        return Seen(
            {key: tracer.names.stack_of(key) for key in ids},
            dict(zip(ids, counts.tolist(), strict=True)),
        )
    finally:
        tracer.close()


@pytest.mark.parametrize("memory", ["malloc", "pymalloc"])
def test_python(memory: str) -> None:
    with Target(["/usr/bin/python3", "-c", PYTHON], {"PYTHONMALLOC": memory}) as target:
        target.await_ready()
        seen = trace_stacks(target.pid, target.send)
    seen.assert_complete()
    assert len(seen.stacks) > 20


def test_perl() -> None:
    with Target(["/usr/bin/perl", "-e", PERL]) as target:
        target.await_ready()
        seen = trace_stacks(target.pid, target.send)
    seen.assert_complete()
    assert len(seen.stacks) > 20


@contextmanager
def redis(server: str, socket: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [server, "--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", socket.parent],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        Lines(process.stdout, "redis-server").until(lambda line: "eady to accept" in line)
        yield process
    finally:
        process.kill()
        process.wait(DEADLINE_S)


def test_redis(tmp_path: Path, require_tool: Callable[[str], str]) -> None:
    """Debian's is built with jemalloc."""
    server, benchmark = require_tool("redis-server"), require_tool("redis-benchmark")
    socket = tmp_path / "redis"

    def load() -> None:
        tests = "set,get,incr,lpush,rpop,sadd,hset,zadd,lrange_100,mset"
        command = [benchmark, "-s", str(socket), "-q", "-n", "3000", "-c", "5", "-t", tests]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=DEADLINE_S)

    with redis(server, socket) as process:
        seen = trace_stacks(process.pid, load)
    seen.assert_complete()
    assert len(seen.stacks) > 20


def test_stripped_cpp(compiled: Compiler, tmp_path: Path) -> None:
    program = tmp_path / "stripped"
    built = compiled("stack_kinds.cpp", "-O2", "-fomit-frame-pointer")
    subprocess.run(["strip", "-o", program, built], check=True)
    with Target([program]) as target:
        target.await_ready()
        seen = trace_stacks(target.pid, target.send)
    seen.assert_complete()
    assert len(seen.stacks) > 50


def test_the_first_frame_shown_is_the_caller_of_operator_new(compiled: Compiler) -> None:
    program = compiled("stack_kinds.cpp", "-O2", "-fomit-frame-pointer")
    with Target([program]) as target:
        target.await_ready()
        seen = trace_stacks(target.pid, target.send, lines=True)
    seen.assert_complete()
    by_new = [s for s in seen.stacks.values() if "operator new" in (s.frames[0].function or "")]
    assert len(by_new) > 20
    shown = [readable(stack, ReportOptions()) for stack in by_new]
    assert not [s for s in shown if "operator new" in (s.frames[0].function or "")]
    for whole, short in zip(by_new, shown, strict=True):
        assert whole.frames[-len(short.frames) :] == short.frames
    handlers = [s for s in shown if "on_signal" in (s.frames[0].function or "")]
    assert handlers
    for stack in handlers:
        source = stack.frames[0].source
        assert source is not None
        assert source.file.endswith("stack_kinds.cpp")


def has_debug_information_of_libc() -> bool:
    return any(Path("/usr/lib/debug/.build-id").glob("*/*.debug")) or any(
        Path("/usr/lib/debug").rglob("libc.so.6*")
    )


@pytest.mark.may_skip("not every distribution has libc's debug information as a package")
def test_lines_of_libc(compiled: Compiler) -> None:
    """A callback from qsort: with libc6-dbg installed, the report shows the line in libc that
    called it."""
    if not has_debug_information_of_libc():
        pytest.skip("needs libc6-dbg")
    program = compiled("stack_kinds.cpp", "-O2", "-fomit-frame-pointer")
    with Target([program]) as target:
        target.await_ready()
        seen = trace_stacks(target.pid, target.send, lines=True)
    below = [
        stack.frames[index + 1]
        for stack in seen.stacks.values()
        for index, frame in enumerate(stack.frames[:-1])
        if (frame.function or "").startswith("compare(")
    ]
    assert below
    for frame in below:
        assert Path(frame.module or "").name.startswith("libc")
        assert frame.source is not None
        assert frame.source.file.endswith((".c", ".h"))
        assert frame.source.line > 0
