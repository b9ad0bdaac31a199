"""Addresses of processes that run, load and unload libraries, end, or hide behind a namespace."""

from __future__ import annotations

import ctypes
import itertools
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from leaktrace.analysis.site_id import site_id
from leaktrace.errors import TargetError
from leaktrace.model import Frame
from leaktrace.options import SymbolOptions
from leaktrace.symbols import jit
from leaktrace.symbols import objects as objects_module
from leaktrace.symbols import process as process_module
from leaktrace.symbols.jit import PerfMap
from leaktrace.symbols.process import ProcessSymbolizer
from leaktrace.targets.mappings import Mapping, read_mappings
from leaktrace.targets.root import TargetRoot

# Does what it is told on standard input and answers with the addresses that matter.
TARGET = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <execinfo.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <unistd.h>

static void *library;

__attribute__((noinline)) int inner(void **pcs, int room) {
  int n = backtrace(pcs, room);
  __asm__ volatile("");
  return n;
}

__attribute__((noinline)) void outer(void) {
  void *pcs[16];
  int n = inner(pcs, 16);
  for (int i = 0; i < n; i++) printf("%p ", pcs[i]);
  printf("\n");
}

static void on_signal(int number) { (void)number; outer(); }

int main(int argc, char **argv) {
  char line[4096], *text;
  setvbuf(stdout, NULL, _IOLBF, 0);
  setvbuf(stdin, NULL, _IONBF, 0);  /* what follows an exec is for the next program */
  while ((text = fgets(line, sizeof line, stdin))) {
    line[strcspn(line, "\n")] = 0;
    if (!strcmp(line, "stack")) outer();
    else if (!strcmp(line, "signal")) { signal(SIGUSR1, on_signal); raise(SIGUSR1); }
    else if (!strncmp(line, "open ", 5)) {
      library = dlopen(line + 5, RTLD_NOW);
      printf("%p\n", library ? dlsym(library, "from_library") : NULL);
    } else if (!strcmp(line, "close")) printf("0x%x\n", dlclose(library));
    else if (!strcmp(line, "vdso")) printf("%p\n", (void *)getauxval(AT_SYSINFO_EHDR));
    else if (!strcmp(line, "heap")) printf("%p\n", malloc(100));
    else if (!strcmp(line, "code"))
      printf("%p\n", mmap(NULL, 8192, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    else if (!strncmp(line, "map ", 4)) {
      int file = open(line + 4, O_RDONLY);
      printf("%p\n", mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, file, 0));
      close(file);
    } else if (!strncmp(line, "exec ", 5)) execl(line + 5, line + 5, NULL);
  }
  return 0;
}
"""
LIBRARY = "int from_library(int n) { return n + 1; }\n"


class Target:
    """The program above, running."""

    def __init__(self, *command: str | Path) -> None:
        self.process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        self.pid = self.process.pid

    def tell(self, command: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(command.encode() + b"\n")

    def ask(self, command: str) -> list[int]:
        self.tell(command)
        assert self.process.stdout
        answer = [int(word, 16) for word in self.process.stdout.readline().split()]
        assert answer, command
        return answer

    def end(self) -> None:
        if self.process.stdin:
            self.process.stdin.close()
        self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()


Run = Callable[..., Target]


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with `target`, `target-static` where possible, and `plugin.so`."""
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs gcc")
    directory = tmp_path_factory.mktemp("programs")
    (directory / "target.c").write_text(TARGET)
    (directory / "plugin.c").write_text(LIBRARY)
    for options in (
        ["-o", "target", "target.c", "-ldl"],
        ["-shared", "-fPIC", "-o", "plugin.so", "plugin.c"],
    ):
        subprocess.run([compiler, "-g", "-O1", *options], check=True, cwd=directory)
    return directory


@pytest.fixture
def run(programs: Path) -> Iterator[Run]:
    targets: list[Target] = []

    def start(*command: str | Path) -> Target:
        targets.append(Target(*(command or (programs / "target",))))
        return targets[-1]

    yield start
    for target in targets:
        target.end()


def ready(target: Target) -> list[int]:
    """The target's stack, once it has passed its own start."""
    return target.ask("stack")


def physical(symbolizer: ProcessSymbolizer, addresses: list[int]) -> list[Frame]:
    return [symbolizer.symbolize(address)[-1] for address in addresses]


def test_a_stack_has_names_lines_and_modules(run: Run, programs: Path) -> None:
    target = run()
    stack = ready(target)
    frames = physical(ProcessSymbolizer(target.pid), stack)
    assert [frame.function for frame in frames[:3]] == ["inner", "outer", "main"]
    source = TARGET.splitlines()
    lines = [source[frame.source.line - 1] for frame in frames[:3] if frame.source]
    assert ["backtrace(" in lines[0], "inner(" in lines[1], "outer()" in lines[2]] == [True] * 3
    assert {frame.module for frame in frames[:3]} == {str(programs / "target")}
    assert [frame.address for frame in frames] == stack
    assert any("libc" in (frame.module or "") for frame in frames)
    assert all(frame.function or frame.unknown for frame in frames)


def test_a_signal_frame(run: Run) -> None:
    """A handler returns to the start of a trampoline, and beyond lies what it interrupted."""
    target = run()
    ready(target)
    symbolizer = ProcessSymbolizer(target.pid)
    stack = target.ask("signal")
    frames = [frame for frame in symbolizer.symbolize_stack(stack) if not frame.inlined]
    names = [frame.function for frame in frames]
    assert names[:4] == ["inner", "outer", "on_signal", "<signal handler called>"]
    assert "main" in names[4:]
    assert [frame.address for frame in frames] == stack
    assert frames[4:5] == [symbolizer.symbolize(stack[4], False)[-1]]


def test_the_same_address_is_the_same_tuple(run: Run) -> None:
    target = run()
    stack = ready(target)
    symbolizer = ProcessSymbolizer(target.pid)
    assert symbolizer.symbolize(stack[0]) is symbolizer.symbolize(stack[0])


def test_names_survive_the_end_of_the_process(run: Run, programs: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copy(programs / "target", copy)
    target = run(copy)
    stack = ready(target)
    symbolizer = ProcessSymbolizer(target.pid)
    copy.unlink()
    target.end()
    frames = physical(symbolizer, stack)
    assert [frame.function for frame in frames[:3]] == ["inner", "outer", "main"]
    assert frames[0].source is not None
    assert frames[0].module == str(copy)
    assert not symbolizer.is_alive()
    with pytest.raises(TargetError):
        symbolizer.refresh()
    (lost,) = symbolizer.symbolize(0x1000)
    assert lost.function is None
    assert lost.unknown


def test_a_library_loaded_later_is_found(run: Run, programs: Path) -> None:
    target = run()
    ready(target)
    symbolizer = ProcessSymbolizer(target.pid)
    assert not symbolizer.refresh()
    (function,) = target.ask(f"open {programs / 'plugin.so'}")
    (frame,) = symbolizer.symbolize(function + 1)
    assert (frame.function, frame.offset) == ("from_library", 1)
    assert frame.module == str(programs / "plugin.so")
    assert not symbolizer.refresh()


def test_a_library_that_was_unloaded_is_remembered(run: Run, programs: Path) -> None:
    target = run()
    ready(target)
    (function,) = target.ask(f"open {programs / 'plugin.so'}")
    symbolizer = ProcessSymbolizer(target.pid)
    assert target.ask("close") == [0]
    symbolizer.refresh()
    (frame,) = symbolizer.symbolize(function + 1)
    assert frame.function == "from_library"


def test_a_file_deleted_or_replaced_before_it_was_opened(
    run: Run, programs: Path, tmp_path: Path, require_root: None
) -> None:
    """Only map_files leads to what is mapped; what lies at the path is something else."""
    copy = tmp_path / "copy"
    shutil.copy(programs / "target", copy)
    target = run(copy)
    stack = ready(target)
    copy.unlink()
    shutil.copy(programs / "plugin.so", copy)
    frames = physical(ProcessSymbolizer(target.pid), stack)
    assert [frame.function for frame in frames[:3]] == ["inner", "outer", "main"]
    assert frames[0].module == str(copy)


def test_exec_is_a_new_start(run: Run, programs: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copy(programs / "target", other)
    target = run()
    old = ready(target)
    symbolizer = ProcessSymbolizer(target.pid)
    assert symbolizer.symbolize(old[0])[-1].module == str(programs / "target")
    target.tell(f"exec {other}")
    new = ready(target)
    symbolizer.forget()
    assert symbolizer.refresh()
    frames = physical(symbolizer, new)
    assert [frame.function for frame in frames[:3]] == ["inner", "outer", "main"]
    assert {frame.module for frame in frames[:3]} == {str(other)}


@pytest.mark.may_skip("not every kernel has a vDSO")
def test_the_vdso(run: Run) -> None:
    target = run()
    ready(target)
    (start,) = target.ask("vdso")
    if not start:
        pytest.skip("needs a kernel with a vDSO")
    mapping = next(m for m in read_mappings(target.pid) if m.path == "[vdso]")
    assert mapping.start == start
    symbolizer = ProcessSymbolizer(target.pid)
    frames = physical(symbolizer, list(range(start + 1, mapping.end, 64)))
    assert {frame.module for frame in frames} == {"[vdso]"}
    named = [frame.function for frame in frames if frame.function]
    assert any("clock_gettime" in name or "gettimeofday" in name for name in named)


def test_addresses_that_are_no_code_say_so(run: Run) -> None:
    target = run()
    ready(target)
    symbolizer = ProcessSymbolizer(target.pid)
    (heap,) = symbolizer.symbolize(target.ask("heap")[0])
    assert (heap.module, heap.unknown) == ("[heap]", "not executable memory")
    for address in (0, 1, 0x1234, (1 << 64) - 1):
        (frame,) = symbolizer.symbolize(address)
        assert (frame.function, frame.unknown) == (None, "not mapped")


def test_code_in_a_file_that_is_no_object(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "jit\x1b[2J.cache"
    file.write_bytes(b"#!/bin/sh\n" * 1000)
    target = run()
    ready(target)
    (start,) = target.ask(f"map {file}")
    (frame,) = ProcessSymbolizer(target.pid).symbolize(start + 8)
    assert frame.module == str(file).replace("\x1b", r"\x1b")
    assert frame.unknown and "not an ELF file" in frame.unknown
    assert frame.unknown.isprintable()


def test_looking_in_vain_is_rare(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand addresses that are nowhere don't cost a thousand readings of the mappings."""
    target = run()
    ready(target)
    symbolizer = ProcessSymbolizer(target.pid)
    readings, ticks = [], iter(range(1_000_000))

    def read(pid: int) -> tuple[Mapping, ...]:
        readings.append(pid)
        return read_mappings(pid)

    monkeypatch.setattr(process_module, "read_mappings", read)
    monkeypatch.setattr("time.monotonic", lambda: float(next(ticks)))
    assert {symbolizer.symbolize(address)[0].unknown for address in range(1000)} == {"not mapped"}
    assert 1 <= len(readings) < 100


def test_more_objects_than_are_kept(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    target = run()
    stack = ready(target)
    monkeypatch.setattr(objects_module, "_MAX_OBJECTS", 1)
    frames = physical(ProcessSymbolizer(target.pid), stack)
    assert frames[0].function == "inner"
    assert frames[-2].unknown and "more than 1 objects" in frames[-2].unknown


def test_a_process_that_never_was() -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    with pytest.raises(TargetError, match=str(child.pid)):
        ProcessSymbolizer(child.pid)


def test_site_ids_do_not_change_from_run_to_run(run: Run) -> None:
    ids, addresses = set(), set()
    for options in (SymbolOptions(), SymbolOptions(lines=False, inlines=False)):
        target = run()
        stack = ready(target)[:3]
        symbolizer = ProcessSymbolizer(target.pid, options)
        ids.add(site_id(frame for address in stack for frame in symbolizer.symbolize(address)))
        addresses.add(tuple(stack))
    assert len(ids) == 1
    assert len(addresses) == 2 or Path("/proc/sys/kernel/randomize_va_space").read_text()[0] == "0"
    assert all(len(name) == 16 and int(name, 16) >= 0 for name in ids)


def test_site_ids_tell_stacks_apart() -> None:
    def frame(offset: int, build_id: str | None = "ab", **more: object) -> Frame:
        return Frame(9, module="/lib/x.so", module_offset=offset, build_id=build_id, **more)  # type: ignore[arg-type]

    base = site_id([frame(1), frame(2)])
    assert base == site_id([("ab", 1), ("ab", 2)])
    assert base == site_id([frame(1), frame(2, inlined=True), frame(2, function="f")])
    others = [
        [frame(2), frame(1)],
        [frame(1)],
        [frame(1), frame(3)],
        [frame(1), frame(2, "cd")],
        [frame(1), frame(2, None)],
        [frame(0x12)],
        [],
    ]
    assert len({base, *(site_id(stack) for stack in others)}) == 1 + len(others)
    assert site_id([Frame(0x10, unknown="not mapped")]) != site_id([Frame(0x20, unknown="same")])
    assert site_id([Frame(1, function="jit")]) == site_id([Frame(2, function="jit")])


# -- code made at run time ------------------------------------------------------------------------


@pytest.fixture
def perf_map(run: Run) -> Iterator[tuple[Target, int, Path]]:
    """A target, a page of code in it, and the map it would write."""
    target = run()
    ready(target)
    (code,) = target.ask("code")
    path = Path(f"/tmp/perf-{target.pid}.map")
    yield target, code, path
    path.unlink(missing_ok=True)


def test_jit_code_is_named_by_its_map(perf_map: tuple[Target, int, Path]) -> None:
    target, code, path = perf_map
    symbolizer = ProcessSymbolizer(target.pid)
    (before,) = symbolizer.symbolize(code + 5)
    assert before.unknown == f"code made at run time; {path} is not there"
    path.write_text(
        f"{code:x} 10 LazyCompile:*shop /srv/shop.js:1\n{code + 16:#x} 20 next\nbad line\n"
    )
    symbolizer.refresh()
    (frame,) = symbolizer.symbolize(code + 5)
    assert (frame.function, frame.offset) == ("LazyCompile:*shop /srv/shop.js:1", 5)
    assert symbolizer.symbolize(code + 16)[-1].function == "LazyCompile:*shop /srv/shop.js:1"
    assert symbolizer.symbolize(code + 17)[-1].function == "next"
    (outside,) = symbolizer.symbolize(code + 200)
    assert outside.unknown == f"code made at run time; {path} does not list it"
    with path.open("a") as file:
        file.write(f"{code + 190:x} 40 added\x1b[31m later\n")
    symbolizer.refresh()
    assert symbolizer.symbolize(code + 200)[-1].function == r"added\x1b[31m later"


def test_a_map_that_is_not_the_users_own_is_ignored(
    perf_map: tuple[Target, int, Path], require_root: None
) -> None:
    target, code, path = perf_map
    path.write_text(f"{code:x} 10 forged\n")
    os.chown(path, 12345, 12345)
    (frame,) = ProcessSymbolizer(target.pid).symbolize(code + 5)
    assert frame.function is None
    assert frame.unknown and "does not belong to" in frame.unknown


def test_a_map_that_is_a_link_is_ignored(
    perf_map: tuple[Target, int, Path], tmp_path: Path
) -> None:
    target, code, path = perf_map
    (tmp_path / "elsewhere").write_text(f"{code:x} 10 forged\n")
    path.symlink_to(tmp_path / "elsewhere")
    (frame,) = ProcessSymbolizer(target.pid).symbolize(code + 5)
    assert frame.function is None


def test_a_map_that_is_a_fifo_does_not_stop_us(perf_map: tuple[Target, int, Path]) -> None:
    target, code, path = perf_map
    os.mkfifo(path)
    (frame,) = ProcessSymbolizer(target.pid).symbolize(code + 5)
    assert frame.function is None


def generated(tmp_path: Path, text: str) -> tuple[PerfMap, Path]:
    """A perf map without a process."""
    (tmp_path / "tmp").mkdir()
    path = tmp_path / "tmp/perf-7.map"
    path.write_text(text)
    return PerfMap(TargetRoot(str(tmp_path)), 7, os.geteuid()), path


def test_the_newest_entry_of_a_place_wins(tmp_path: Path) -> None:
    table, _ = generated(tmp_path, "100 10 old\n100 10 new\n108 4 nested\nff 1 before\n")
    assert table.lookup(0x100) == ("new", 0)
    assert table.lookup(0x109) == ("nested", 1)
    assert table.lookup(0x10D) == ("new", 13)
    assert table.lookup(0x110) is None
    assert table.lookup(0xFF) == ("before", 0)


def test_lines_of_a_map_that_are_none(tmp_path: Path) -> None:
    lines = ["", "100", "100 10", "x 10 no", "100 0 none", "100 -1 no", f"{1 << 64:x} 1 far",
             "ffffffffffffffff 10 beyond", "200 fffffffff large",
             "300 10 \t two  words "]  # fmt: skip
    table, _ = generated(tmp_path, "\n".join(lines))
    assert [table.lookup(a) for a in (0x100, 0x200, (1 << 64) - 1)] == [None] * 3
    assert table.lookup(0x300) == ("two  words ", 0)


def test_the_last_line_of_a_map_may_grow(tmp_path: Path) -> None:
    table, path = generated(tmp_path, "100 10 one\n200 10 tw")
    assert table.lookup(0x200) == ("tw", 0)
    with path.open("a") as file:
        file.write("o\n300 10 three")
    table.refresh()
    assert table.lookup(0x200) == ("two", 0)
    assert table.lookup(0x300) == ("three", 0)
    assert table.lookup(0x100) == ("one", 0)


def test_only_what_a_map_has_grown_by_is_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[bytes] = []
    parse = PerfMap._parse

    def noted(self: PerfMap, text: bytes) -> None:
        parsed.append(text)
        parse(self, text)

    monkeypatch.setattr(PerfMap, "_parse", noted)
    table, path = generated(tmp_path, "100 10 one\n")
    assert table.lookup(0x200) is None
    with path.open("a") as file:
        file.write("200 10 two\n100 10 again\n")
    table.refresh()
    assert table.lookup(0x200) == ("two", 0)
    assert table.lookup(0x100) == ("again", 0)
    table.refresh()
    assert table.lookup(0x300) is None
    assert parsed == [b"100 10 one\n", b"200 10 two\n100 10 again\n"]


@pytest.mark.parametrize("text", ["300 10 other\n", "300 10 six\n", "300 10 as long\n400 10 x\n"])
def test_a_map_that_was_written_anew(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jit, "_PAUSE_FACTOR", 0)
    table, path = generated(tmp_path, "100 10 first\n")
    assert table.lookup(0x100) == ("first", 0)
    path.write_text(text)
    os.utime(path, ns=(1, 1))  # another time than before, whatever the clock's step
    table.refresh()
    assert table.lookup(0x100) is None
    found = table.lookup(0x300)
    assert found and found.name == text.splitlines()[0].split(None, 2)[2]


def test_a_map_is_not_looked_at_for_each_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    table, path = generated(tmp_path, "")
    assert table.lookup(0x100) is None
    path.write_text("100 10 late\n")
    clock[0] += 0.9
    assert table.lookup(0x100) is None
    clock[0] += 0.2
    assert table.lookup(0x100) == ("late", 0)
    path.unlink()
    table.refresh()
    assert table.lookup(0x100) == ("late", 0)


def test_a_map_that_changes_all_the_time_is_not_read_all_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count(1000)  # whatever it does takes a second or more
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    table, path = generated(tmp_path, "100 10 first\n")
    assert table.lookup(0x100) == ("first", 0)
    path.write_text("200 10 second\n")
    table.refresh()
    assert table.lookup(0x100) == ("first", 0)
    for _ in range(40):
        next(clock)
    table.refresh()
    assert table.lookup(0x200) == ("second", 0)


def test_a_map_of_many_lines_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jit, "_MAX_ENTRIES", 5)
    table, path = generated(tmp_path, "".join(f"{i:x} 10 f{i}\n" for i in range(0, 0x40, 0x10)))
    assert table.lookup(0x100) is None
    assert table.problem == "/tmp/perf-7.map does not list it"
    with path.open("a") as file:
        file.write("40 10 f64\n50 10 f80\n")
    table.refresh()
    assert table.lookup(0x45) == ("f64", 5)
    assert table.lookup(0x55) is None
    assert "16 MiB and 5 lines" in table.problem


def test_a_large_map_is_cut(tmp_path: Path) -> None:
    table, path = generated(tmp_path, "100 10 first\n")
    with path.open("a") as file:
        file.write(f"200 10 {'x' * (16 << 20)}\n300 10 behind\n")
    assert table.lookup(0x100) == ("first", 0)
    assert table.lookup(0x200) is None
    assert "16 MiB and 500,000 lines" in table.problem


# -- namespaces -----------------------------------------------------------------------------------

CLONE_NEWNS, CLONE_NEWPID = 0x20000, 0x20000000


def in_own_namespaces(directory: Path, command: Path) -> list[str]:
    """A command that sees `directory` as /tmp/inside, in mount and pid namespaces of its own."""
    script = 'mount --bind "$1" "$2" && exec "$2/target"'
    inside = directory.parent / "inside"
    inside.mkdir()
    return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script, "sh",
            str(directory), str(inside)]  # fmt: skip


def child_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


@pytest.mark.may_skip("a container may not make namespaces, even as root")
def test_other_namespaces(
    run: Run,
    programs: Path,
    tmp_path: Path,
    require_root: None,
    require_tool: Callable[[str], str],
) -> None:
    """The target's path exists only for the target, and its own pid is another."""
    require_tool("unshare")
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    shutil.copy(programs / "target", hidden)
    probe = ["unshare", "--mount", "--pid", "--fork", "true"]
    if subprocess.run(probe, check=False, capture_output=True).returncode:
        pytest.skip("needs to make mount and pid namespaces")
    outer = run(*in_own_namespaces(hidden, hidden / "target"))
    stack = ready(outer)
    pid = child_of(outer.pid)
    symbolizer = ProcessSymbolizer(pid)
    frames = physical(symbolizer, stack)
    assert [frame.function for frame in frames[:3]] == ["inner", "outer", "main"]
    assert frames[0].module == str(tmp_path / "inside" / "target")
    assert not Path(frames[0].module).exists()
    (code,) = outer.ask("code")
    (frame,) = symbolizer.symbolize(code + 1)
    assert frame.unknown and "/tmp/perf-1.map" in frame.unknown


@pytest.mark.may_skip("not every distribution has a static libc")
def test_a_root_of_its_own(
    run: Run, programs: Path, tmp_path: Path, require_root: None, require_tool: Callable[[str], str]
) -> None:
    """chroot, as a container: debug files of the container's own are found in it."""
    chroot, compiler = require_tool("chroot"), require_tool("gcc")
    root = tmp_path / "root"
    (root / "bin").mkdir(parents=True)
    (root / "tmp").mkdir()
    program = root / "bin/target"
    options = ["-g", "-O1", "-static", "-Wl,--build-id"]
    command = [compiler, *options, "-o", str(program), str(programs / "target.c")]
    built = subprocess.run(command, check=False, capture_output=True)
    if built.returncode:
        pytest.skip("needs a static libc")
    debug = tmp_path / "target.debug"
    subprocess.run(["objcopy", "--only-keep-debug", program, debug], check=True)
    subprocess.run(["objcopy", "--strip-all", f"--add-gnu-debuglink={debug}", program], check=True)
    (root / "bin/.debug").mkdir()
    shutil.copy(debug, root / "bin/.debug/target.debug")
    target = run(chroot, root, "/bin/target")
    stack = ready(target)
    symbolizer = ProcessSymbolizer(target.pid)
    (code,) = target.ask("code")
    (root / f"tmp/perf-{target.pid}.map").write_text(f"{code:x} 10 jitted\n")
    assert symbolizer.symbolize(code + 4)[-1].function == "jitted"
    target.end()  # the root directory is reachable still
    frames = physical(symbolizer, stack)
    assert [frame.function for frame in frames[:3]] == ["inner", "outer", "main"]
    assert frames[0].source is not None


def test_a_root_without_openat2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before Linux 5.6, or where a filter forbids the call."""
    (tmp_path / "file").write_text("content")

    class OldLibrary:
        @staticmethod
        def syscall(*_: object) -> int:
            ctypes.set_errno(38)  # ENOSYS
            return -1

    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: OldLibrary)
    descriptor = TargetRoot(str(tmp_path)).open("/file")
    with os.fdopen(descriptor) as file:
        assert file.read() == "content"
