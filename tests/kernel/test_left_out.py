"""One object that can't be hooked is no reason not to trace the others: it is left out, and the
report names it and says why."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from harness.compiling import Compiler
from harness.reports import Report, Total
from harness.target import Target
from harness.tracer import NEVER, ONE_REPORT, Tracer, run_leaktrace
from harness.wording import names, notes_naming, the_note

pytestmark = pytest.mark.usefixtures("require_bpf")

ENOTSUPP = "ENOTSUPP"
EM_RISCV, EM_AARCH64 = 243, 183

Make = Callable[[Compiler, Path], Path]


def of_machine(number: int) -> Make:
    """An allocator whose header says that it is built for another processor."""

    def make(compiled: Compiler, folder: Path) -> Path:
        image = bytearray(compiled("plain_malloc.c", "-shared", "-fPIC").read_bytes())
        struct.pack_into("<H", image, 18, number)
        path = folder / "foreign.so"
        path.write_bytes(image)
        return path

    return make


def damaged(compiled: Compiler, folder: Path) -> Path:
    """An allocator whose symbols lie outside of the file."""
    image = bytearray(compiled("plain_malloc.c", "-shared", "-fPIC").read_bytes())
    elf = ELFFile(io.BytesIO(bytes(image)))
    for name in (".dynsym", ".symtab"):
        at = elf["e_shoff"] + elf.get_section_index(name) * elf["e_shentsize"]
        struct.pack_into("<Q", image, at + 24, (1 << 64) - 4096)
    path = folder / "damaged.so"
    path.write_bytes(image)
    return path


def cut(compiled: Compiler, folder: Path) -> Path:
    path = folder / "cut.so"
    path.write_bytes(compiled("plain_malloc.c", "-shared", "-fPIC").read_bytes()[:100])
    return path


def refused(compiled: Compiler, folder: Path) -> Path:
    path = folder / "refused.so"
    path.write_bytes(compiled("refused_free.c", "-shared", "-fPIC").read_bytes())
    return path


# How it comes into the process, and what the note says of it.
OBJECTS: dict[str, tuple[Make, str, str]] = {
    "of another machine": (of_machine(EM_RISCV), "map", "EM_RISCV"),
    "of a machine that is known elsewhere": (of_machine(EM_AARCH64), "map", "EM_AARCH64"),
    "damaged": (damaged, "map", "truncated"),
    "cut off": (cut, "map", "truncated"),
    "refused by the kernel": (refused, "load", ENOTSUPP),
}


def trace(compiled: Compiler, *, before: list[str], after: list[str]) -> Report:
    """Commands for the target before leaktrace attaches, and after."""
    with Target([compiled("mapper.c", "-ldl")]) as target:
        target.await_ready()
        for command in before:
            target.do(command)
        with Tracer("-p", str(target.pid), *ONE_REPORT, NEVER) as tracer:
            tracer.await_armed()
            for command in (*after, "malloc 7 100"):
                target.do(command)
            outcome = tracer.stop()
        assert target.end() == 0
    assert outcome.exit_code == 0, outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert "Unknown error" not in outcome.stdout + outcome.stderr
    (report,) = outcome.reports
    assert report.under("scenario_libc") == Total(700, 7)
    assert report.losses == {}
    return report


@pytest.mark.parametrize("name", OBJECTS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_an_object_that_can_not_be_hooked(
    name: str, when: str, compiled: Compiler, tmp_path: Path
) -> None:
    """The allocator that is mapped after it is hooked anyway."""
    make, verb, reason = OBJECTS[name]
    path = make(compiled, tmp_path)
    good = tmp_path / "good.so"
    good.write_bytes(compiled("plain_malloc.c", "-shared", "-fPIC").read_bytes())
    commands = [f"{verb} {path}", f"load {good}"]
    report = trace(
        compiled,
        before=commands if when == "before" else [],
        after=commands if when == "after" else [],
    )
    the_note(report, path, reason)
    allocators = report.raw["target"]["allocators"]
    assert [one.split(":")[0] for one in allocators if "libc" not in one] == ["good.so"]


def test_a_mapped_file_that_is_no_object_is_not_worth_a_note(
    compiled: Compiler, tmp_path: Path
) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"\0" * 8192)
    report = trace(compiled, before=[f"map {path}"], after=[])
    assert notes_naming(report, path) == []


def test_the_only_object_is_refused(compiled: Compiler, tmp_path: Path) -> None:
    """Then it is an error, in words."""
    path = refused(compiled, tmp_path)
    with Target([compiled("mapper.c", "-ldl")]) as target:
        target.await_ready()
        target.do(f"load {path}")
        outcome = run_leaktrace("-p", str(target.pid), "-O", path, "1", "1")
        assert target.end() == 0
    assert outcome.exit_code == 1
    assert outcome.stdout == ""
    assert names(outcome.stderr, ENOTSUPP, "refused.so")
    assert "Unknown error" not in outcome.stderr
