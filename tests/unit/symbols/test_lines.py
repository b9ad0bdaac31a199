"""Functions, lines and inlined callers of real programs, address by address as addr2line says."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from leaktrace.elf.object import ElfObject
from leaktrace.errors import ObjectFileError
from leaktrace.options import SymbolOptions
from leaktrace.site import Frame
from leaktrace.symbols.debug_information import LookupContext
from leaktrace.symbols.lines import has_debug_information, read_line_table
from leaktrace.symbols.lookups import Lookups
from leaktrace.symbols.module import Module
from leaktrace.targets.root import TargetRoot

SOURCE = """
#include <cstdlib>
#include <vector>

static inline __attribute__((always_inline)) void *innermost(int n) {
  void *block = malloc(n);
  asm volatile("" : : "r"(block));
  return block;
}

static inline __attribute__((always_inline)) void *middle(int n) {
  return innermost(n + 1);
}

namespace shop {
template <class Thing> struct Box {
  __attribute__((noinline)) void *make(Thing size) {
    void *block = middle(size);
    asm volatile("" : : "r"(block) : "memory");
    return block;
  }
};
}

extern "C" __attribute__((noinline)) int plain(int n) {
  asm volatile("");
  return n * 3;
}

int main(int argc, char **) {
  shop::Box<int> box;
  std::vector<int> numbers;
  numbers.push_back(plain(argc));
  void *block = box.make(argc);
  asm volatile("" : : "r"(block));
  return numbers[0] - 3;
}
"""

Build = Callable[..., Path]


@pytest.fixture
def build(tmp_path: Path, require_tool: Callable[[str], str]) -> Build:
    def compile_it(compiler: str, *options: str, name: str = "sample") -> Path:
        source = tmp_path / "sample.cpp"
        source.write_text(SOURCE)
        output = tmp_path / name
        command = [require_tool(compiler), "-O2", "-o", str(output), *options, str(source)]
        subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
        return output

    return compile_it


def module_of(path: Path, options: SymbolOptions | None = None) -> Module:
    roots = (TargetRoot("/"),)
    return Module(
        ElfObject.open(path), str(path), roots, LookupContext.of(options or SymbolOptions())
    )


def addresses_of(path: Path, functions: Iterable[str]) -> list[int]:
    found = ElfObject.open(path).functions(functions)
    return [
        vaddr
        for symbol in found.values()
        for vaddr in range(symbol.vaddr, symbol.vaddr + symbol.size)
    ]


def by_addr2line(path: Path, addresses: list[int]) -> dict[int, list[tuple[str, str, int]]]:
    """(function, file, line) of each address, innermost first."""
    text = subprocess.run(
        ["addr2line", "-a", "-i", "-f", "-C", "-e", str(path)],
        input="\n".join(hex(address) for address in addresses),
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    found: dict[int, list[tuple[str, str, int]]] = {}
    current: list[tuple[str, str, int]] = []
    at = 0
    while at < len(text):
        if re.fullmatch("0x[0-9a-f]+", text[at]):
            current = found.setdefault(int(text[at], 16), [])
            at += 1
            continue
        file, _, line = text[at + 1].partition(" (")[0].rpartition(":")
        current.append((text[at], file, int(line) if line.isdigit() else 0))
        at += 2
    return found


def by_us(frames: tuple[Frame, ...]) -> list[tuple[str, str, int]]:
    return [
        (
            re.sub(r"( \[clone [.\w]+\]|\.cold|\.isra\.\d+)$", "", frame.function or ""),
            frame.source.file if frame.source else "",
            frame.source.line if frame.source else 0,
        )
        for frame in frames
    ]


def agree(ours: list[tuple[str, str, int]], theirs: list[tuple[str, str, int]]) -> bool:
    """Equal but for blanks, for how parameters are shown, and for lines that aren't there."""
    return len(ours) == len(theirs) and all(
        bare(one[0]) == bare(other[0])
        and (other[2] == 0 or (Path(one[1]).name, one[2]) == (Path(other[1]).name, other[2]))
        for one, other in zip(ours, theirs, strict=True)
    )


def bare(name: str) -> str:
    return name.replace(" ", "").split("(")[0]


FUNCTIONS = ("main", "_ZN4shop3BoxIiE4makeEi", "plain")


@pytest.mark.parametrize("compiler", ["g++", "clang++"])
@pytest.mark.parametrize(
    "options",
    [
        ("-g",),
        ("-g", "-no-pie"),
        ("-g", "-shared", "-fPIC"),
        ("-g", "-gz=zlib"),
        ("-g", "-gdwarf-4"),
        ("-g", "-Wl,-z,noseparate-code", "-no-pie", "-Wl,-Ttext-segment=0x7000000"),
    ],
    ids=" ".join,
)
def test_every_address_is_as_addr2line_says(
    build: Build, compiler: str, options: tuple[str, ...]
) -> None:
    path = build(compiler, *options)
    addresses = addresses_of(path, FUNCTIONS)
    expected = by_addr2line(path, addresses)
    module = module_of(path)
    wrong = {
        address: (by_us(frames), expected[address])
        for address in addresses
        if not agree(by_us(frames := module.frames(address, address, False)), expected[address])
    }
    assert len(addresses) > 40
    assert not wrong
    assert module.problem == ""


def test_inlined_frames_come_before_the_physical_one(build: Build) -> None:
    path = build("g++", "-g", "-O0")  # nothing but what must be is inlined
    addresses = addresses_of(path, ["_ZN4shop3BoxIiE4makeEi"])
    start = addresses[0]
    module = module_of(path)
    deepest = max((module.frames(a, a, False) for a in addresses), key=len)
    assert [(bare(f.function or ""), f.inlined) for f in deepest] == [
        ("innermost", True),
        ("middle", True),
        ("shop::Box<int>::make", False),
    ]
    lines = SOURCE.splitlines()
    assert ["innermost(n + 1)" in lines[f.source.line - 1] for f in deepest if f.source] == [
        False,
        True,
        False,
    ]
    assert deepest[-1].source and "middle(size)" in lines[deepest[-1].source.line - 1]
    assert {f.address for f in deepest} == {deepest[-1].address}
    assert deepest[-1].offset == deepest[-1].address - start


def test_a_return_address_belongs_to_the_call(build: Build) -> None:
    """At the return address another line begins, or even another function."""
    path = build("g++", "-g", "-O0")
    symbol = ElfObject.open(path).functions(["plain"])["plain"]
    module = module_of(path)
    end = symbol.vaddr + symbol.size
    called = module.frames(0x7F0000000000 + end, end, True)[-1]
    assert (called.function, called.offset) == ("plain", symbol.size)
    assert called.address == 0x7F0000000000 + end
    assert called.module_offset == end
    following = module.frames(end, end, False)[-1]
    assert following.function != "plain"


def test_without_inlined_frames_the_line_is_the_innermost(build: Build) -> None:
    path = build("g++", "-g", "-O0")
    addresses = addresses_of(path, ["_ZN4shop3BoxIiE4makeEi"])
    full = module_of(path)
    deepest = max((full.frames(a, a, False) for a in addresses), key=len)
    address = deepest[0].address
    flat = module_of(path, SymbolOptions(inlines=False)).frames(address, address, False)
    assert [(f.function, f.source) for f in flat] == [
        ("shop::Box<int>::make(int)", deepest[0].source)
    ]


def test_without_lines_nothing_but_names(build: Build) -> None:
    path = build("g++", "-g")
    symbol = ElfObject.open(path).functions(["plain"])["plain"]
    module = module_of(path, SymbolOptions(lines=False, inlines=False))
    (frame,) = module.frames(symbol.vaddr + 1, symbol.vaddr + 1, False)
    assert (frame.function, frame.offset, frame.source) == ("plain", 1, None)


def test_split_dwarf_says_what_is_missing(build: Build) -> None:
    path = build("g++", "-g", "-gsplit-dwarf")
    symbol = ElfObject.open(path).functions(["plain"])["plain"]
    module = module_of(path)
    frame = module.frames(symbol.vaddr, symbol.vaddr, False)[-1]
    assert frame.function == "plain"
    assert "-gsplit-dwarf" in module.problem


def test_names_that_dwz_moved_to_another_file(
    build: Build, tmp_path: Path, require_tool: Callable[[str], str]
) -> None:
    path = build("g++", "-g", "-O0")
    shutil.copy(path, tmp_path / "twin")
    command = [require_tool("dwz"), "-m", "common.debug", path.name, "twin"]
    subprocess.run(command, check=True, cwd=tmp_path)
    module = module_of(path)
    addresses = addresses_of(path, ["_ZN4shop3BoxIiE4makeEi"])
    deepest = max((module.frames(a, a, False) for a in addresses), key=len)
    assert [(f.function, f.inlined) for f in deepest] == [
        (None, True),
        (None, True),
        ("shop::Box<int>::make(int)", False),
    ]
    assert all(f.unknown and f.source for f in deepest[:2])
    assert "common.debug (dwz)" in module.problem


def test_damaged_debug_information_is_a_reason(build: Build, tmp_path: Path) -> None:
    path = build("g++", "-g", "-gz=none")
    data = bytearray(path.read_bytes())
    for section in ElfObject.open(path).sections:
        if section.name in (".debug_info", ".debug_abbrev", ".debug_line"):
            data[section.offset : section.offset + section.size] = b"\xff" * section.size
    damaged = tmp_path / "damaged"
    damaged.write_bytes(data)
    module = module_of(damaged)
    symbol = ElfObject.open(path).functions(["plain"])["plain"]
    frame = module.frames(symbol.vaddr, symbol.vaddr, False)[-1]
    assert (frame.function, frame.source) == ("plain", None)
    assert module.problem
    assert module.problem.isprintable()


def test_debug_information_that_takes_too_long_is_a_reason(build: Build) -> None:
    elf = ElfObject.open(build("g++", "-g"))
    assert has_debug_information(elf)
    with pytest.raises(ObjectFileError, match=r"more than 0\.001 s"):
        read_line_table(elf, 0.001, Lookups())


def test_rust_lines(tmp_path: Path, require_tool: Callable[[str], str]) -> None:
    source = tmp_path / "sample.rs"
    source.write_text(
        """
#[inline(always)]
fn keep(size: usize) -> Vec<u8> {
    Vec::with_capacity(std::hint::black_box(size))
}
#[no_mangle]
#[inline(never)]
pub fn make(size: usize) -> Vec<u8> {
    keep(size + 1)
}
fn main() { std::mem::forget(make(std::env::args().count())); }
"""
    )
    path = tmp_path / "sample"
    subprocess.run(
        [require_tool("rustc"), "-g", "-O", "-o", str(path), str(source)],
        check=True,
        capture_output=True,
    )
    addresses = addresses_of(path, ["make"])
    module = module_of(path)
    stacks = [module.frames(a, a, False) for a in addresses]
    ours = [frame for stack in stacks for frame in stack if frame.function == "sample::keep"]
    assert ours
    assert {frame.source.line for frame in ours if frame.source} <= {3, 4}
    assert all(stack[-1].function == "make" for stack in stacks)
    assert any(
        frame.function and frame.function.startswith("alloc::")
        for stack in stacks
        for frame in stack
    )


def test_very_many_symbols_are_read_in_the_background(
    tmp_path: Path, require_tool: Callable[[str], str]
) -> None:
    """Half a million: frames have no names until they are sorted, and then the right ones."""
    count = 400_000
    source, path = tmp_path / "many.s", tmp_path / "many.so"
    lines = (f".type f{i},@function\nf{i}:nop\n.size f{i},1\n" for i in range(count))
    source.write_text(".text\n" + "".join(lines))
    subprocess.run([require_tool("gcc"), "-shared", "-nostdlib", "-o", path, source], check=True)
    listed = subprocess.run(
        [require_tool("nm"), path], capture_output=True, text=True, check=True
    ).stdout
    found = re.search(rf"^([0-9a-f]+) t f{count // 2}$", listed, re.MULTILINE)
    assert found is not None
    address = int(found[1], 16)
    lookups = Lookups()
    options = SymbolOptions(lines=False, inlines=False)
    module = Module(ElfObject.open(path), str(path), (), LookupContext.of(options, lookups))
    (frame,) = module.frames(address, address, False)
    if lookups.arrived == 0:
        assert (frame.function, frame.unknown) == (None, "its symbols are being read")
    while lookups.arrived == 0:
        lookups.wait(is_last=True)
    (frame,) = module.frames(address, address, False)
    assert (frame.function, frame.offset) == (f"f{count // 2}", 0)
