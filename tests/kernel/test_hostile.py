"""A hostile or damaged target: exact figures or a plain error, and no control sequences for a
terminal."""

from __future__ import annotations

import io
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from harness.compiling import Compiler
from harness.length import chosen
from harness.reports import Total
from harness.target import Target
from harness.tracer import NEVER, Tracer, trace_work
from hostile_files import KINDS, put

pytestmark = pytest.mark.usefixtures("require_bpf")

Damage = Callable[[bytearray], None]


def section(name: str, content: Callable[[int], bytes]) -> Damage:
    """Overwrites a section that the program itself doesn't need in order to run."""

    def damage(image: bytearray) -> None:
        found = ELFFile(io.BytesIO(bytes(image))).get_section_by_name(name)
        assert found is not None
        start, size = found["sh_offset"], found["sh_size"]
        image[start : start + size] = content(size)

    return damage


def field(offset: int, layout: str, value: int) -> Damage:
    """Overwrites a field of the ELF header (elf(5))."""

    def damage(image: bytearray) -> None:
        struct.pack_into(layout, image, offset, value)

    return damage


def header_of(name: str, position: int, value: int) -> Damage:
    """Overwrites a 64-bit field of a section's header: 24 offset, 32 size, 56 entry size."""

    def damage(image: bytearray) -> None:
        elf = ELFFile(io.BytesIO(bytes(image)))
        at = elf["e_shoff"] + elf.get_section_index(name) * elf["e_shentsize"]
        struct.pack_into("<Q", image, at + position, value)

    return damage


HUGE = (1 << 64) - 1
NOISE = os.urandom(64)
# The short form has every second one, so each table is damaged there too.
DAMAGES: dict[str, Damage] = {
    "no section headers": field(40, "<Q", 0),
    "section headers out of the file": field(40, "<Q", HUGE - 7),
    "65,535 sections": field(60, "<H", 0xFFFF),
    "section names in a section that isn't there": field(62, "<H", 0xFFFE),
    "section headers of one byte": field(58, "<H", 1),
    "unwind tables of ones": section(".eh_frame", lambda size: b"\xff" * size),
    "unwind tables of noise": section(".eh_frame", lambda size: (NOISE * size)[:size]),
    "symbols of ones": section(".symtab", lambda size: b"\xff" * size),
    "symbols of noise": section(".symtab", lambda size: (NOISE * size)[:size]),
    "a symbol table of 16 EiB": header_of(".symtab", 32, HUGE),
    "a symbol table with entries of no size": header_of(".symtab", 56, 0),
    "a symbol table out of the file": header_of(".symtab", 24, HUGE - 4095),
    "names of symbols out of the file": header_of(".strtab", 24, HUGE - 4095),
    "line numbers of noise": section(".debug_line", lambda size: (NOISE * size)[:size]),
    "debug information of ones": section(".debug_info", lambda size: b"\xff" * size),
    "debug information of 16 EiB": header_of(".debug_info", 32, HUGE),
    "unwind tables of 16 EiB": header_of(".eh_frame", 32, HUGE),
}


@pytest.mark.parametrize("damage", chosen(list(DAMAGES)[1::2], list(DAMAGES)[::2]))
def test_a_damaged_program_is_counted_exactly(
    damage: str, compiled: Compiler, tmp_path: Path
) -> None:
    """The allocator is libc's; names and complete stacks are missing where their tables were
    damaged."""
    image = bytearray(compiled("allocator.c").read_bytes())
    DAMAGES[damage](image)
    program = tmp_path / "damaged"
    program.write_bytes(image)
    program.chmod(0o755)
    report = trace_work([program]).report
    assert report.outstanding == Total(25_942_824, 603)
    assert report.lost_allocations == {}
    assert sum(site.total.count for site in report.sites) == 603


@pytest.mark.parametrize("format_name", ["text", "memleak", "json"])
def test_a_path_with_control_codes(format_name: str, compiled: Compiler, tmp_path: Path) -> None:
    """The path is the process's name and a module's, and looks like a deleted one."""
    program = tmp_path / "evil\x1b[31m\n\x9b\u202e (deleted)"
    program.write_bytes(compiled("names.c").read_bytes())
    program.chmod(0o755)
    with Target([program]) as target:
        target.await_ready()
        options = ["--format", format_name, "-o", "0", "-v"]
        with Tracer("-p", str(target.pid), *options, NEVER) as tracer:
            tracer.await_armed()
            target.do()
            outcome = tracer.stop()
        assert target.end() == 0
    assert outcome.exit_code == 0, outcome.stderr
    assert "evil" in outcome.stdout
    if format_name == "json":
        frames = [frame for site in json.loads(outcome.stdout)["sites"] for frame in site["frames"]]
        modules = {frame["module"] for frame in frames}
        assert any(r"/evil\x1b[31m\n\x9b\u202e" in module for module in modules)
    shown = (
        outcome.stdout
        if format_name != "json"
        else json.dumps(json.loads(outcome.stdout), ensure_ascii=False)
    )
    assert "größe_λ_漏れ" in shown
    for character in outcome.stdout + outcome.stderr:
        assert character.isprintable() or character in "\n\t", repr(character)


@pytest.mark.parametrize("kind", chosen(list(KINDS)[1::2], list(KINDS)[::2]))
def test_what_is_in_the_place_of_a_perf_map(kind: str, compiled: Compiler) -> None:
    """Any user may create /tmp/perf-PID.map before the process does."""

    def drive(target: Target) -> tuple[int, ...]:
        perf_map.append(put(kind, Path(f"/tmp/perf-{target.pid}.map")))
        target.do("generated kept 1001")
        return target.do("inner 1002")

    perf_map: list[Path] = []
    try:
        report = trace_work([compiled("stack_walkers.c")], drive=drive).report
    finally:
        for path in perf_map:
            path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
            path.with_name(f"{path.name}.fifo").unlink(missing_ok=True)
    assert report.outstanding == Total(2003, 2)
    (site,) = [site for site in report.sites if site.total.bytes == 1001]
    assert site.functions[:2] == ("scenario_called_back", None)
    assert site.frames[1].unknown is not None
    (site,) = [site for site in report.sites if site.total.bytes == 1002]
    assert site.functions[:2] == ("scenario_inner", "scenario_outer")


def test_twenty_thousand_regions_come_and_go(compiled: Compiler) -> None:
    """A flood of events, each of which matters."""

    def flood(target: Target) -> tuple[int, ...]:
        target.do("malloc 5 7")
        return target.do("regions 20000")

    report = trace_work([compiled("commands.c")], drive=flood).report
    assert report.losses == {}
    assert report.outstanding == Total(35, 5)
