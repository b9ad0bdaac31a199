"""Where the dynamic loader announces the objects that it loads, and how these are recognized."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from leaktrace.elf.object import ElfObject
from leaktrace.process.probes.loader_probes import plan_loader
from leaktrace.targets.loader import code_mappings, loader_interface
from leaktrace.targets.mappings import Mapping, read_mappings
from leaktrace.unwind.fingerprint import FINGERPRINT_BYTES, fingerprint, is_unmistakable

pytestmark = pytest.mark.skipif(os.uname().machine != "x86_64", reason="places are those of x86-64")


def loader_mapping() -> Mapping:
    """The mapping of this process's own dynamic loader."""
    named = (m for m in read_mappings(os.getpid()) if Path(m.path).name.startswith("ld-"))
    return next(mapping for mapping in named if mapping.is_executable)


def test_the_interface_is_what_the_loader_exports() -> None:
    mappings = [m for m in read_mappings(os.getpid()) if m.path == loader_mapping().path]
    listing = subprocess.run(
        ["readelf", "--wide", "--dyn-syms", mappings[0].path],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    values = {
        name.split("@")[0]: mappings[0].start + int(value, 16)
        for value, name in re.findall(r": ([0-9a-f]{16}) .* (_\w+@\S+)$", listing, re.MULTILINE)
    }
    found = loader_interface(os.getpid())
    assert found is not None
    assert found.r_debug == values["_r_debug"]
    assert found.r_brk == values["_dl_debug_state"]


def test_a_static_program_has_none(tmp_path: Path) -> None:
    source = tmp_path / "static.c"
    source.write_text("#include <unistd.h>\nint main(void) { char c; return read(0, &c, 1); }\n")
    program = tmp_path / "static"
    subprocess.run(["gcc", "-static", "-o", program, source], check=True)
    with subprocess.Popen([program], stdin=subprocess.PIPE) as process:
        assert loader_interface(process.pid) is None
        assert process.stdin is not None
        process.stdin.close()


@pytest.mark.skipif(shutil.which("objdump") is None, reason="needs objdump")
def test_probes_are_on_the_calls_or_behind_them() -> None:
    """objdump shows where the function is called. No probe is on the function itself, where
    debuggers insert their breakpoints."""
    mapping = loader_mapping()
    interface = loader_interface(os.getpid())
    assert interface is not None
    plan = plan_loader(interface, os.getpid(), read_mappings(os.getpid()))
    assert plan is not None
    listing = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", mapping.path],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    lines = [line for line in listing.splitlines() if re.match(r" +[0-9a-f]+:\t", line)]
    addresses = [int(line.split(":")[0], 16) for line in lines]
    target = interface.r_brk - mapping.start + mapping.offset
    target_vaddr = plan.elf.offset_to_vaddr(target)
    calls = [
        index
        for index, line in enumerate(lines)
        if re.search(rf"\t(call|jmp) +{target_vaddr:x}\b", line)
    ]
    assert calls
    found = {plan.elf.offset_to_vaddr(probe.offset) for probe in plan.probes}
    assert len(found) == len(calls)
    for index in calls:
        assert found & set(addresses[index : index + 2])
    assert target_vaddr not in found


def build(directory: Path, name: str, *flags: str) -> Path:
    source = directory / f"{name}.c"
    source.write_text(f"int {name}(int n) {{ return n + 1; }}\n")
    library = directory / f"{name}.so"
    subprocess.run(["gcc", "-shared", "-fPIC", *flags, "-o", library, source], check=True)
    return library


def test_the_fingerprint_of_a_file_is_that_of_its_memory(tmp_path: Path) -> None:
    library = build(tmp_path, "one")
    ctypes.CDLL(str(library))
    mapped = [m for m in read_mappings(os.getpid()) if m.path == str(library)]
    memory = ctypes.string_at(mapped[0].start, FINGERPRINT_BYTES)
    again = tmp_path / "memory"
    again.write_bytes(memory)
    with ElfObject.open(library) as elf:
        assert elf.read(0, FINGERPRINT_BYTES) == memory
        assert is_unmistakable(elf)
        assert code_mappings(elf, str(library), mapped[0].start) == [
            mapping for mapping in mapped if mapping.is_executable
        ]


def test_libraries_of_one_layout_differ_by_their_build_id(tmp_path: Path) -> None:
    with (
        ElfObject.open(build(tmp_path, "one")) as one,
        ElfObject.open(build(tmp_path, "two")) as two,
    ):
        assert fingerprint(one) != fingerprint(two)


def test_without_a_build_id_nothing_is_certain(tmp_path: Path) -> None:
    with ElfObject.open(build(tmp_path, "one", "-Wl,--build-id=none")) as elf:
        assert not is_unmistakable(elf)
        assert fingerprint(elf)


def test_too_short_a_file(tmp_path: Path) -> None:
    library = build(tmp_path, "one")
    short = tmp_path / "short"
    short.write_bytes(library.read_bytes()[: FINGERPRINT_BYTES - 1])
    with ElfObject.open(short) as elf:
        assert fingerprint(elf) == 0
        assert not is_unmistakable(elf)
