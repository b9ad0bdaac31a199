"""Whole walks against gdb: at hundreds of instructions, one after the other, both must see the
same frames."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from unwind_walker import Arrays, Registers

from leaktrace.abi.process import Rule, SavedRbp
from leaktrace.elf.object import ElfObject
from leaktrace.targets.mappings import Mapping, parse_mappings
from leaktrace.unwind.layout import UnwindLayout
from leaktrace.unwind.rows import NoRule
from leaktrace.unwind.table import UnwindTable, compile_object

PROGRAM = r"""
/* Frames of every kind above one another: a qsort callback inside libc, recursion, alloca, a
 * realigned stack, a lazily bound PLT, a signal handler, a thread. */
#define _GNU_SOURCE
#include <alloca.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#ifdef FRAME_POINTER
#define ALSO_RBP
#else
#define ALSO_RBP , "rbp" /* has to be saved, and is not what it was */
#endif

static volatile int depth_limit = 3;

__attribute__((noinline)) void step_from_here(void) { asm volatile("" ::: "memory"); }

__attribute__((noinline)) static void *leaf(size_t size) {
    step_from_here();
    char *p = malloc(size); /* lazily bound: through the PLT and the dynamic linker */
    asm volatile("" :: "r"(p) : "memory");
    free(p);
    return p;
}

__attribute__((noinline)) static long realigned(int n) {
    _Alignas(64) char local[192];
    char *dynamic = alloca(n + 16);
    memset(local, n, sizeof local);
    memset(dynamic, n, n + 16);
    asm volatile("" :: "r"(local), "r"(dynamic) : "memory", "rbx", "r12", "r13");
    leaf(n + 8);
    return local[3] + dynamic[1];
}

__attribute__((noinline)) static long recurse(int depth) {
    long result = depth < depth_limit ? recurse(depth + 1) : realigned(depth);
    asm volatile("" ::: "memory" ALSO_RBP);
    return result + depth;
}

static void handler(int signal) { recurse(signal - SIGUSR1); }

static int compare(const void *a, const void *b) {
    if (depth_limit == 3) {
        raise(SIGUSR1);
        depth_limit = 4;
    }
    return *(const int *)a - *(const int *)b;
}

static void *sort(void *unused) {
    int numbers[] = {3, 1, 2};
    qsort(numbers, 3, sizeof numbers[0], compare);
    return unused;
}

int main(int argc, char **argv) {
    signal(SIGUSR1, handler);
    if (argc == 1)
        return sort(NULL) != NULL;
    pthread_t thread;
    pthread_create(&thread, NULL, sort, NULL);
    return pthread_join(thread, NULL);
}
"""

# Runs inside gdb. One JSON object: the mappings, and a list of stops.
GDB_SCRIPT = r"""
import json, gdb
for setting in ("confirm off", "pagination off", "backtrace past-main on",
                "backtrace past-entry on", "breakpoint pending on", "debuginfod enabled off",
                "disable-randomization on", "scheduler-locking step"):
    try:
        gdb.execute("set " + setting, to_string=True)
    except gdb.error:
        pass  # unknown to older versions
gdb.execute("handle SIGUSR1 nostop noprint pass", to_string=True)
gdb.execute("break step_from_here", to_string=True)
gdb.execute("run " + ARGUMENTS, to_string=True)
stops = []
with open("/proc/%d/maps" % gdb.selected_inferior().pid) as maps:
    text = maps.read()
for number in range(STOPS):
    frame = gdb.newest_frame()
    register = lambda name: int(frame.read_register(name).cast(gdb.lookup_type("long"))) % 2**64
    rsp = register("rsp")
    low = rsp - 256  # an epilogue may have popped what the tables say is saved there
    stack = b""
    for size in range(16384, 0, -256):  # as much as there is
        try:
            stack = gdb.selected_inferior().read_memory(low, size).tobytes()
            break
        except gdb.MemoryError:
            continue
    pcs = []
    while frame:
        if frame.type() not in (gdb.INLINE_FRAME, gdb.TAILCALL_FRAME):  # not on the stack
            pcs.append(frame.pc())
        frame = frame.older()
    frame = gdb.newest_frame()
    stops.append({"ip": frame.pc(), "sp": rsp, "bp": register("rbp"), "low": low,
                  "stack": stack.hex(), "pcs": pcs})
    # One at a time through the PLT, then in strides through the dynamic linker, malloc and free.
    gdb.execute("stepi %d" % (1 if number < 30 else 11), to_string=True)
    if not gdb.selected_inferior().pid:  # it has ended
        break
with open(OUTPUT, "w") as output:
    json.dump({"maps": text, "stops": stops}, output)
if gdb.selected_inferior().pid:
    gdb.execute("kill")
"""

STOPS = 300


def run_in_gdb(gdb: str, program: Path, arguments: str) -> dict[str, Any]:
    output = program.with_suffix(".json")
    script = program.with_suffix(".gdb.py")
    head = f"ARGUMENTS, STOPS, OUTPUT = {arguments!r}, {STOPS}, {str(output)!r}\n"
    script.write_text(head + GDB_SCRIPT)
    done = subprocess.run(
        [gdb, "-nx", "-batch", "-x", str(script), str(program)],
        capture_output=True,
        text=True,
        check=False,
    )
    if not output.exists():
        if "ptrace" in done.stderr or "Operation not permitted" in done.stderr:
            pytest.skip(f"gdb can't trace here: {done.stderr.strip()}")
        raise AssertionError(done.stdout + done.stderr)
    found: dict[str, Any] = json.loads(output.read_text())
    return found


def open_table(mapping: Mapping) -> UnwindTable | None:
    """The process has ended, but its files still exist."""
    if not mapping.is_file:
        return None
    with ElfObject.open(mapping.path) as elf:
        return compile_object(elf)


@pytest.mark.parametrize(
    ("flags", "arguments"),
    [
        (("-O2", "-fomit-frame-pointer"), ""),
        (("-O2", "-fomit-frame-pointer"), "thread"),
        (("-O2", "-fno-omit-frame-pointer", "-DFRAME_POINTER", "-no-pie"), "thread"),
        (("-O0", "-DFRAME_POINTER"), ""),
        (("-O2", "-g", "-fno-asynchronous-unwind-tables"), ""),
    ],
    ids=["omit-frame-pointer", "thread", "frame-pointer", "O0", "debug_frame"],
)
def test_gdb_sees_the_same_frames(tmp_path: Path, flags: tuple[str, ...], arguments: str) -> None:
    gdb, gcc = shutil.which("gdb"), shutil.which("gcc")
    if not gdb or not gcc:
        pytest.skip("needs gdb and gcc")
    source, program = tmp_path / "program.c", tmp_path / "program"
    source.write_text(PROGRAM)
    lazy = ("-Wl,-z,lazy", "-fcf-protection=none", "-pthread")
    subprocess.run([gcc, *flags, *lazy, "-o", str(program), str(source)], check=True)
    found = run_in_gdb(gdb, program, arguments)

    arrays = Arrays()
    update = UnwindLayout(open_table).update(parse_mappings(found["maps"].encode()))
    assert not update.failures
    arrays.write(update)

    complete = 0
    differing: list[str] = []
    for number, stop in enumerate(found["stops"]):
        innermost = arrays.find_row(stop["ip"])
        if innermost and (innermost.rule, innermost.saved_rbp) == (Rule.RULE_RSP, SavedRbp.AT_RBP):
            # At the ret of a function that realigned its stack gcc still says so, although rbp was
            # popped by then; gdb looks at the instruction.
            continue
        walk = arrays.walk(Registers(stop["ip"], stop["sp"], stop["bp"]), reader(stop))
        if walk.problem:
            # _dl_runtime_resolve keeps its CFA in rbx: up to there the walk must be right anyway.
            same = NoRule.CFA_REGISTER.name in walk.problem
            same = same and walk.ips == stop["pcs"][: len(walk.ips)]
        else:
            same = walk.ips == stop["pcs"]
            complete += same
        if not same:
            differing.append(f"stop {number}: {walk.problem} {walk.ips}, gdb: {stop['pcs']}")
    assert not differing, "\n".join(differing[:5])
    depths = {len(stop["pcs"]) for stop in found["stops"]}
    assert max(depths) >= 12
    assert len(depths) > 3
    assert complete >= STOPS // 4


def reader(stop: dict[str, Any]) -> Callable[[int, int], bytes]:
    stack = bytes.fromhex(stop["stack"])

    def read(address: int, size: int) -> bytes:
        start = address - stop["low"]
        assert 0 <= start <= len(stack) - size, hex(address)
        return stack[start : start + size]

    return read
