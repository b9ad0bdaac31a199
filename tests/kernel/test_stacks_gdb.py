"""The stacks that the BPF program walks are those that gdb sees.

A knob of the program stops the process at each record, inside the allocation function. gdb then
lists all physical frames, and each pc must be the same. Which allocations are recorded is left to
--sample-rate: one in many, at random.

There are no exceptions: gcc's unwind information is known to be wrong at some `ret` instructions
and in some epilogues, but a stack is walked from one call to the next and passes none of them,
except where it was interrupted.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from gdb_stops import Gdb
from harness.compiling import Compiler
from harness.target import Target

from leaktrace.model import EventKind
from leaktrace.options import Filters, ProcessOptions, ProcessTarget, ReportOptions
from leaktrace.process.setup import open_tracer
from leaktrace.targets.mappings import read_mappings

pytestmark = pytest.mark.usefixtures("require_bpf")

MAX_FRAMES = 127  # bpf/process/types.h

PYTHON = """
import json, re, sys
print("ready", flush=True)
sys.stdin.readline()

class Node:
    def __init__(self, depth):
        self.children = [Node(depth - 1) for _ in range(2)] if depth else "x" * 600

def fail(depth):
    try:
        return fail(depth - 1) if depth else {}[depth]
    except KeyError as error:
        raise ValueError("deeper") from error

def numbers(depth):
    yield depth
    if depth:
        yield from numbers(depth - 1)

while True:
    Node(5)
    json.loads(json.dumps({str(i): [i, "y" * i, {"z": float(i)}] for i in range(40)}))
    re.sub("(a+)(b?)", lambda match: match[1].upper() * 9, "aab" * 50)
    sorted(map(str, range(50)), key=lambda text: text * 3)
    list(numbers(20))
    try:
        fail(10)
    except ValueError:
        pass
    exec(compile("def f(*b):\\n    return [a for a in b if a > 3]\\nf(1, 2, 3, 4, 5)", "", "exec"))
"""

PERL = r"""
$| = 1; print "ready\n"; <STDIN>;
sub tree { my $d = shift; return $d ? { l => tree($d - 1), r => [tree($d - 1)] } : "x" x 600 }
while (1) {
    tree(5);
    my $text = join ",", map { $_ * 3 } sort { "$a$b" cmp "$b$a" } 1 .. 60;
    $text =~ s/(\d+)/sprintf("%08d", $1) . lc("AB$1")/ge;
    my @words = split /,/, $text;
    eval { die { reason => [@words] } };
    my %seen; $seen{$_}++ for @words;
    eval 'sub { my @a = @_; map { $_ . "z" x 20 } @a }->(1 .. 5)';
}
"""

LIBRARIES = 20
# Each library is compiled with another of these, and has frames of another kind.
FLAGS = (
    ("-O2", "-fomit-frame-pointer"),
    ("-O0",),
    ("-O3", "-fno-omit-frame-pointer"),
    ("-Os",),
    ("-O2", "-fomit-frame-pointer", "-fno-plt"),
    ("-O2", "-Wl,-z,lazy", "-fstack-protector-all"),
)
BODIES = (
    "descend(seed, depth);",
    "char *room = alloca(seed % 300 + 1); KEEP(room); descend(seed, depth); KEEP(room);",
    "_Alignas(64) char room[192]; memset(room, 1, 192); KEEP(room); descend(seed, depth);"
    " KEEP(room);",
    "char room[70000]; room[seed % 70000] = 1; KEEP(room); descend(seed, depth); KEEP(room);",
    "int room[seed % 40 + 1]; KEEP(room); descend(seed, depth); KEEP(room);",
)
LIBRARY = """
#include "scenario.h"
#include <alloca.h>
extern void (*const passages[])(unsigned, int);
void NAME(unsigned seed, int depth);

static void descend(unsigned seed, int depth) {
    void *block = malloc(seed % 500);
    if (depth > 0) {
        unsigned next = seed * 1664525u + 1013904223u;
        passages[(next >> 16) % COUNT](next, depth - 1);
    }
    KEEP(block);
    free(block);
}

void NAME(unsigned seed, int depth) {
    BODY
    KEEP(seed);
}
"""


def passages_program(folder: Path, compiler: str) -> Path:
    """A program whose calls go through twenty shared objects."""
    support = Path(__file__).resolve().parents[1] / "programs"
    common = ["-fPIC", "-D_GNU_SOURCE", f"-I{support}", f"-DCOUNT={LIBRARIES}"]
    names = [f"passage{number}" for number in range(LIBRARIES)]
    for number, name in enumerate(names):
        source = folder / f"{name}.c"
        body = BODIES[number % len(BODIES)]
        source.write_text(LIBRARY.replace("NAME", name).replace("BODY", body))
        subprocess.run(
            [
                compiler,
                *FLAGS[number % len(FLAGS)],
                *common,
                "-shared",
                str(source),
                "-o",
                str(folder / f"lib{name}.so"),
            ],
            check=True,
        )
    main = folder / "main.c"
    main.write_text(
        '#include "scenario.h"\n'
        + "".join(f"void {name}(unsigned, int);\n" for name in names)
        + f"void (*const passages[])(unsigned, int) = {{{', '.join(names)}}};\n"
        + "int main(void) {\n    await_go();\n    for (unsigned seed = 1;; seed++)\n"
        + "        passages[seed % COUNT](seed, (int)(seed % 160));\n}\n"
    )
    program = folder / "passages"
    subprocess.run(
        [compiler, "-O2", *common, str(main), "-o", str(program), f"-L{folder}"]
        + [f"-l{name}" for name in names]
        + ["-Wl,-export-dynamic", f"-Wl,-rpath,{folder}"],
        check=True,
    )
    return program


def compare_with_gdb(
    argv: Sequence[str | Path], *, sample_rate: int, count: int, env: dict[str, str] | None = None
) -> list[list[int]]:
    """Stop a program at `count` random allocations and compare each stack. Returns the stacks.

    Frames are compared up to the first one that is not in code, if there is one: what follows are
    guesses. A signal leads there where it interrupts what installs the context of an exception: the
    return addresses that libgcc saved are overwritten by then.
    """
    compared: list[list[int]] = []
    differing: list[str] = []
    with Target(argv, env) as target:
        target.await_ready()
        options = ProcessOptions(
            target=ProcessTarget((target.pid,)),
            filters=Filters(sample_rate=sample_rate),
            report=ReportOptions(trace=True, full_stacks=True, lines=False, inlines=False),
        )
        with Gdb(target.pid) as gdb:
            tracer = open_tracer(options, knobs={"STOP_AT_RECORD": 1})
            try:
                tracer.arm()
                target.send()
                while len(compared) < count:
                    by_thread = gdb.next_stop()
                    assert by_thread is not None, "the target has ended"
                    events, _ = tracer.pump()
                    for event in events:
                        if event.kind is not EventKind.ALLOCATE:
                            continue
                        ours = [frame.address for frame in event.frames]
                        # gdb's first frame is the allocation function, at a point within it.
                        theirs = by_thread[event.tid][1 : MAX_FRAMES + 1]
                        compared.append(ours)
                        pid = target.pid
                        if ours != theirs and up_to_code(pid, ours) != up_to_code(pid, theirs):
                            differing.append(side_by_side(ours, theirs))
            finally:
                tracer.close()
    assert not differing, f"{len(differing)} of {len(compared)} differ:\n" + "\n".join(
        differing[:3]
    )
    return compared


def up_to_code(pid: int, addresses: list[int]) -> list[int]:
    """These frames, up to the first one that is in no code."""
    code = [one for one in read_mappings(pid) if one.is_executable]
    for depth, address in enumerate(addresses, start=1):
        if not any(one.start <= address < one.end for one in code):
            return addresses[:depth]
    return addresses


def side_by_side(ours: list[int], theirs: list[int]) -> str:
    depth = max(len(ours), len(theirs))
    lines = [f"{'leaktrace':>18} {'gdb':>18}"]
    for left, right in zip(
        ours + [0] * (depth - len(ours)), theirs + [0] * (depth - len(theirs)), strict=True
    ):
        lines.append(f"{left:#18x} {right:#18x}{'' if left == right else '  <--'}")
    return "\n".join(lines)


def test_python() -> None:
    # Every object through malloc, so that stacks of all parts of the interpreter are seen.
    stacks = compare_with_gdb(
        ["/usr/bin/python3", "-c", PYTHON],
        sample_rate=3000,
        count=100,
        env={"PYTHONMALLOC": "malloc"},
    )
    assert len({tuple(stack) for stack in stacks}) > 20


def test_perl() -> None:
    stacks = compare_with_gdb(["/usr/bin/perl", "-e", PERL], sample_rate=1500, count=100)
    assert len({tuple(stack) for stack in stacks}) > 10


@pytest.mark.parametrize("flags", [("-O2", "-fomit-frame-pointer"), ("-O0",)], ids=["O2", "O0"])
def test_cpp(compiled: Compiler, flags: tuple[str, ...]) -> None:
    program = compiled("stack_kinds.cpp", *flags)
    stacks = compare_with_gdb([program], sample_rate=700, count=150)
    assert len({tuple(stack) for stack in stacks}) > 30


def test_interrupted_anywhere(compiled: Compiler) -> None:
    """From a signal handler, through the interrupted instruction. (Regions are always recorded,
    whatever the sample rate, and only regions are recorded here.)"""
    program = compiled("stack_kinds.cpp", "-O2", "-fomit-frame-pointer")
    stacks = compare_with_gdb([program, "computing"], sample_rate=1 << 31, count=250)
    assert len({tuple(stack) for stack in stacks}) > 40


def test_twenty_shared_objects(tmp_path: Path) -> None:
    program = passages_program(tmp_path, "gcc")
    stacks = compare_with_gdb([program], sample_rate=300, count=150)
    depths = {len(stack) for stack in stacks}
    assert MAX_FRAMES in depths  # cut there
    assert min(depths) < 20
    assert len({tuple(stack) for stack in stacks}) > 100
