"""Addresses of processes that run, load and unload libraries, end, or are in another namespace."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from symbol_target import TARGET, Run, physical, ready

from leaktrace.analysis.site_id import site_id
from leaktrace.errors import TargetError
from leaktrace.options import SymbolOptions
from leaktrace.site import Frame
from leaktrace.symbols import objects as objects_module
from leaktrace.symbols import symbolizer as process_module
from leaktrace.symbols.symbolizer import ProcessSymbolizer
from leaktrace.targets.mappings import Mapping, read_mappings


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
    """A handler returns to the start of a trampoline; the next frame is the interrupted one."""
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
    """Only map_files leads to the mapped file; the path names another file."""
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
    target.send(f"exec {other}")
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


def test_failed_lookups_are_rare(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand unmapped addresses don't cause a thousand readings of the mappings."""
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


def test_a_process_that_never_existed() -> None:
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


def test_site_ids_differ_by_stack() -> None:
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
