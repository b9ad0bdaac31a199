"""ELF objects made by the real tool chain, compared with the output of binutils."""

from __future__ import annotations

import os
import platform
import re
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tool_output import run

from leaktrace.elf.headers import PF_X
from leaktrace.elf.object import ElfObject
from leaktrace.errors import ObjectFileError

SOURCE = """
int counter;
__attribute__((noinline)) static int hidden(int n) { counter += n; return counter; }
int visible(int n) { return hidden(n) + 1; }
int _visible_too(int n) __attribute__((alias("visible")));
static int fast(int n) { return n; }
static void *choose(void) { return fast; }
int chosen(int n) __attribute__((ifunc("choose")));
int old_one(int n) { return n + 1; }
int new_one(int n) { return n + 2; }
__asm__(".symver old_one, versioned@V1");
__asm__(".symver new_one, versioned@@V2");
__asm__(".text\\n.globl label_a\\nlabel_a:\\n nop\\n nop\\nlabel_b:\\n nop\\n nop\\n nop\\n");
int after_labels(int n) { return n * 3; }
"""


VERSIONS = "V1 { global: visible; }; V2 { global: *; } V1;\n"


Compile = Callable[..., Path]


@pytest.fixture
def build(tmp_path: Path, require_tool: Callable[[str], str]) -> Compile:
    """Compiles SOURCE (or a source of the test) into an object of the given options."""
    compiler = require_tool("gcc")

    def compile_it(*options: str, source: str = SOURCE, name: str = "sample.so") -> Path:
        (tmp_path / "sample.c").write_text(source)
        (tmp_path / "versions").write_text(VERSIONS)
        output = tmp_path / name
        versions = [f"-Wl,--version-script={tmp_path / 'versions'}"] if source is SOURCE else []
        run(compiler, "-O1", *options, *versions, "-o", output, tmp_path / "sample.c")
        return output

    return compile_it


@pytest.fixture
def library(build: Compile) -> Path:
    return build(
        *("-shared", "-fPIC", "-g", "-Wl,-soname,libsample.so.3"),
        *("-Wl,--build-id=sha1", "-Wl,--no-as-needed"),
    )


def symbols_by_nm(path: Path, *options: str) -> list[tuple[int, int, str, str]]:
    """Value, size, kind and name of the defined symbols."""
    found = []
    for line in run("nm", "--defined-only", "-S", *options, path).splitlines():
        match = re.fullmatch(r"([0-9a-f]+) (?:([0-9a-f]+) )?(\w) (\S+)", line)
        assert match, line
        found.append((int(match[1], 16), int(match[2] or "0", 16), match[3], match[4]))
    return found


def without_sections(path: Path) -> bytes:
    """The file as `sstrip` would leave it: no section headers."""
    data = bytearray(path.read_bytes())
    data[40:48] = bytes(8)  # e_shoff
    data[60:64] = bytes(4)  # e_shnum, e_shstrndx
    return bytes(data)


def test_identity_is_what_readelf_says(library: Path) -> None:
    elf = ElfObject.open(library)
    notes = run("readelf", "-n", library)
    match = re.search(r"Build ID: ([0-9a-f]+)", notes)
    assert match
    machines = {"x86_64": "EM_X86_64", "aarch64": "EM_AARCH64"}
    assert elf.kind == "ET_DYN"
    assert elf.machine == machines.get(platform.machine(), elf.machine)
    assert elf.build_id == match[1]
    assert elf.soname == "libsample.so.3"
    needed = re.findall(r"\(NEEDED\).*\[(.*)\]", run("readelf", "-dW", library))
    assert elf.needed == tuple(needed) != ()
    assert elf.interpreter is None
    assert elf.debuglink is None


def test_a_program_names_its_interpreter(build: Compile) -> None:
    program = build(source="int main(void) { return 0; }", name="program")
    requested = re.search(r"interpreter: (\S+)\]", run("readelf", "-lW", program))
    assert requested
    assert ElfObject.open(program).interpreter == requested[1]


def test_segments_and_addresses(library: Path) -> None:
    elf = ElfObject.open(library)
    pattern = r"LOAD\s+0x(\S+) 0x(\S+) 0x\S+ 0x(\S+) 0x(\S+) (.{3})"
    listed = re.findall(pattern, run("readelf", "-lW", library))
    assert [(s.offset, s.vaddr, s.file_size, s.memory_size) for s in elf.load_segments] == [
        tuple(int(number, 16) for number in row[:4]) for row in listed
    ]
    assert [bool(s.flags & PF_X) for s in elf.load_segments] == ["E" in row[4] for row in listed]
    for segment in elf.load_segments:
        assert elf.vaddr_to_offset(segment.vaddr) == segment.offset
        assert elf.offset_to_vaddr(segment.offset) == segment.vaddr
    last = elf.load_segments[-1]
    assert elf.vaddr_to_offset(last.vaddr + last.file_size) is None
    assert elf.offset_to_vaddr(elf.file_size + 1) is None


def test_functions_are_those_of_nm(library: Path) -> None:
    expected = {name: value for value, _, kind, name in symbols_by_nm(library) if kind in "Tti"}
    found = ElfObject.open(library).functions(["visible", "hidden", "chosen", "counter", "missing"])
    assert {name: symbol.vaddr for name, symbol in found.items()} == {
        name: expected[name] for name in ("visible", "hidden", "chosen")
    }
    assert [name for name, symbol in found.items() if symbol.is_ifunc] == ["chosen"]
    assert found["hidden"].size > 0


def test_the_default_version_is_meant(library: Path) -> None:
    values = {name: value for value, _, _, name in symbols_by_nm(library, "-D")}
    found = ElfObject.open(library).functions(["versioned"])
    assert values["versioned@V1"] != values["versioned@@V2"]
    assert found["versioned"].vaddr == values["versioned@@V2"]


@pytest.mark.parametrize("style", ["gnu", "sysv", "both"])
def test_functions_without_section_headers(build: Compile, style: str) -> None:
    library = build("-shared", "-fPIC", f"-Wl,--hash-style={style}")
    whole, bare = ElfObject.open(library), ElfObject.from_bytes(without_sections(library))
    names = ["visible", "chosen", "versioned", "after_labels", "label_a"]
    assert bare.sections == ()
    assert bare.functions(names) == whole.functions(names)
    assert set(bare.functions(names)) == {"visible", "chosen", "versioned", "after_labels"}
    assert bare.build_id == whole.build_id
    after = whole.functions(["after_labels"])["after_labels"]
    assert bare.symbols().lookup(after.vaddr + 1) == ("after_labels", 1)


@pytest.mark.parametrize("options", [(), ("-D",)])
def test_every_function_of_libc_is_found_where_nm_says(
    options: tuple[str, ...], require_tool: Callable[[str], str]
) -> None:
    compiler = require_tool("gcc")
    libc = Path(run(compiler, "-print-file-name=libc.so.6").strip()).resolve()
    try:
        listed = symbols_by_nm(libc, *options)
    except subprocess.CalledProcessError:
        listed = []
    code = [row for row in listed if row[2] in "TtWi" and row[1]]
    if not code:
        assert not ElfObject.open(libc).has_symbol_table()
        return
    elf = ElfObject.open(libc)
    names = {name.split("@")[0] for _, _, _, name in code}
    found = elf.functions(names)
    assert set(found) == names
    at: dict[int, set[str]] = {}
    for value, _, _, name in code:
        at.setdefault(value, set()).add(name.split("@")[0])
    assert all(name in at[symbol.vaddr] for name, symbol in found.items())
    table = elf.symbols()
    for value, size, _, _ in code:
        for inside in (0, size - 1):
            match = table.lookup(value + inside)
            assert match is not None
            assert match.name in at[value + inside - match.offset]


def test_symbols_end_where_they_say(library: Path) -> None:
    table = ElfObject.open(library).symbols()
    by_name = {name: (value, size) for value, size, _, name in symbols_by_nm(library)}
    value, size = by_name["hidden"]
    assert table.lookup(value) == ("hidden", 0)
    assert table.lookup(value + size - 1) == ("hidden", size - 1)
    beyond = table.lookup(value + size)
    assert beyond is None or beyond.name != "hidden"
    assert table.lookup(0) is None
    assert table.lookup(1 << 63) is None


def test_labels_reach_to_the_next_symbol(library: Path) -> None:
    table = ElfObject.open(library).symbols()
    by_name = {name: value for value, _, _, name in symbols_by_nm(library)}
    start = by_name["label_a"]
    assert [table.lookup(start + i) for i in range(5)] == [
        ("label_a", 0),
        ("label_a", 1),
        ("label_b", 0),
        ("label_b", 1),
        ("label_b", 2),
    ]


def test_the_better_known_alias_is_shown(library: Path) -> None:
    table = ElfObject.open(library).symbols()
    value = {name: value for value, _, _, name in symbols_by_nm(library)}["_visible_too"]
    assert table.lookup(value) == ("visible", 0)


def test_labels_end_with_their_section(build: Compile) -> None:
    source = """
    __asm__(".section .text.one,\\"ax\\"\\n.globl lonely\\nlonely: nop\\n nop\\n.text\\n");
    int data_after = 1;
    """
    path = build("-shared", "-nostdlib", source=source)
    value = {name: value for value, _, _, name in symbols_by_nm(path)}["lonely"]
    size = next(s.size for s in ElfObject.open(path).sections if s.name == ".text")
    table = ElfObject.open(path).symbols()
    assert table.lookup(value + size - 1) == ("lonely", size - 1)
    assert table.lookup(value + size) is None


@pytest.mark.may_skip("not every gcc compiles for 32 bits")
def test_thirty_two_bit_objects(build: Compile) -> None:
    source = "int add(int a, int b) { return a + b; }"
    try:
        path = build("-m32", "-shared", "-nostdlib", "-fPIC", source=source)
    except subprocess.CalledProcessError:
        pytest.skip("needs a gcc that compiles for 32 bits")
    elf = ElfObject.open(path)
    value, size = next((v, s) for v, s, _, name in symbols_by_nm(path) if name == "add")
    assert (elf.bits, elf.machine) == (32, "EM_386")
    found = elf.functions(["add"])["add"]
    assert (found.vaddr, found.size) == (value, size)
    assert elf.symbols().lookup(value + 1) == ("add", 1)


def section_by_objcopy(path: Path, name: str, scratch: Path) -> bytes:
    plain = scratch / "plain"
    run("objcopy", "--decompress-debug-sections", path, plain)
    run("objcopy", "-O", "binary", f"--only-section={name}", "--set-section-flags",
        f"{name}=alloc", plain, scratch / "section")  # fmt: skip
    return (scratch / "section").read_bytes()


def test_sections_come_decompressed(build: Compile, tmp_path: Path) -> None:
    path = build("-g", "-gz=zlib", "-shared", "-fPIC", source="int f(int n) { return n; }")
    compressed = [s for s in ElfObject.open(path).sections if s.flags & 0x800]
    assert compressed
    for section in compressed:
        found = ElfObject.open(path).section(section.name)
        assert found is not None
        assert found[0] == section_by_objcopy(path, section.name, tmp_path)


@pytest.mark.may_skip("zstd is optional, in binutils and for us")
def test_sections_compressed_with_zstd(build: Compile, tmp_path: Path) -> None:
    pytest.importorskip("zstandard")
    path = build("-g", "-shared", "-fPIC")
    packed = tmp_path / "packed"
    command = ["objcopy", "--compress-debug-sections=zstd", str(path), str(packed)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("needs an objcopy with zstd")
    found = ElfObject.open(packed).section(".debug_info")
    assert found == ElfObject.open(path).section(".debug_info")


def test_a_section_that_unfolds_too_far_is_refused(build: Compile) -> None:
    path = build("-g", "-gz=zlib", "-shared", "-fPIC")
    section = next(s for s in ElfObject.open(path).sections if s.flags & 0x800)
    data = bytearray(path.read_bytes())
    for claimed in (1 << 62, 1 << 28):
        struct.pack_into("<Q", data, section.offset + 8, claimed)
        with pytest.raises(ObjectFileError, match="claims"):
            ElfObject.from_bytes(bytes(data)).section(section.name)
    struct.pack_into("<Q", data, section.offset + 8, section.size)
    with pytest.raises(ObjectFileError, match="damaged"):
        ElfObject.from_bytes(bytes(data)).section(section.name)


def test_eh_frame_header_is_found_by_segment(library: Path) -> None:
    listed = re.search(
        r"GNU_EH_FRAME\s+0x(\S+) 0x(\S+) 0x\S+ 0x(\S+)", run("readelf", "-lW", library)
    )
    assert listed
    expected = tuple(int(number, 16) for number in listed.groups())
    assert ElfObject.open(library).eh_frame_header() == expected
    bare = ElfObject.from_bytes(without_sections(library))
    assert bare.eh_frame_header() == expected
    assert bare.read_vaddr(expected[1], 1) == b"\x01"  # the version of .eh_frame_hdr


def test_debuglink(library: Path, tmp_path: Path) -> None:
    import zlib

    debug = tmp_path / "libsample.debug"
    run("objcopy", "--only-keep-debug", library, debug)
    run("objcopy", "--strip-all", f"--add-gnu-debuglink={debug}", library)
    elf, kept = ElfObject.open(library), ElfObject.open(debug)
    assert elf.debuglink == ("libsample.debug", zlib.crc32(debug.read_bytes()))
    assert not elf.has_symbol_table()
    assert kept.has_symbol_table()
    assert kept.build_id == elf.build_id
    assert kept.needed == ()  # its dynamic section has no contents
    assert set(kept.functions(["hidden"])) == {"hidden"}
    assert elf.functions(["hidden"]) == {}


def test_an_object_outlives_its_file(library: Path) -> None:
    elf = ElfObject.open(library)
    descriptor = os.open(library, os.O_RDONLY)
    library.unlink()
    by_descriptor = ElfObject.open(descriptor)
    os.close(descriptor)
    assert elf.functions(["visible"]) == by_descriptor.functions(["visible"]) != {}
    assert elf.descriptor is not None


def test_a_file_that_shrinks_while_it_is_open(library: Path) -> None:
    """Its owner may do that at any time; had we mapped it, it would be SIGBUS."""
    elf = ElfObject.open(library)
    os.truncate(library, 4096)
    with pytest.raises(ObjectFileError, match="truncated while it was read"):
        elf.functions(["visible"])


def test_a_closed_object_reads_nothing(library: Path) -> None:
    with ElfObject.open(library) as elf:
        assert elf.functions(["visible"])
    with pytest.raises(ObjectFileError):
        elf.functions(["visible"])


@pytest.mark.may_skip("not every kernel has a vDSO")
def test_the_vdso_is_an_object() -> None:
    from leaktrace.targets.mappings import read_mappings

    vdso = next((m for m in read_mappings(os.getpid()) if m.path == "[vdso]"), None)
    if vdso is None:
        pytest.skip("needs a kernel with a vDSO")
    with Path("/proc/self/mem").open("rb") as memory:
        memory.seek(vdso.start)
        elf = ElfObject.from_bytes(memory.read(vdso.end - vdso.start), vdso.path)
    assert elf.soname and "vdso" in elf.soname
    found = elf.functions(["__vdso_clock_gettime", "__kernel_clock_gettime"])
    symbol = next(iter(found.values()))
    match = elf.symbols().lookup(symbol.vaddr + 1)
    assert match is not None and match.offset == 1
