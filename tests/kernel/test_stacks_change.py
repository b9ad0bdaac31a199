"""Stacks while the process changes: code is loaded, unloaded and replaced."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from harness.compiling import Compiler
from harness.length import crossed
from harness.reports import Total, total
from harness.stacks import assert_called_by, ended, next_look
from harness.target import Target
from harness.tracer import NEVER, ONE_REPORT, Tracer, new_cache, trace_work

pytestmark = pytest.mark.usefixtures("require_bpf")

OFTEN = "0.2"
TO_MAIN = ("scenario_plugin", "main")


def plugin(compiled: Compiler, name: str, frame_bytes: int) -> Path:
    flags = [f"-DNAME={name}", f"-DFRAME_BYTES={frame_bytes}", "-shared", "-fPIC"]
    return compiled("stack_plugin.c", *flags, "-fomit-frame-pointer")


# --- dlopen, dlclose ---


def test_a_plugin_loaded_while_traced(compiled: Compiler) -> None:
    """The first stacks may come before its unwind tables: they are broken, and counted. From the
    next look on all are complete."""
    path = plugin(compiled, "early", 64)
    with Target([compiled("stack_plugins.c")]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), *ONE_REPORT, OFTEN) as tracer:
            tracer.await_armed()
            target.do(f"load {path}")
            target.do("call 500 7")
            next_look(tracer)
            target.do("call 40 1000000")
            report = tracer.stop().reports[-1]
        assert target.end() == 0
    early = [site for site in report.sites if "early_inner" in site.functions]
    (late,) = [site for site in early if site.total.bytes >= 40_000_000]
    assert_called_by(late, "early_inner", "early_outer", "plugin_entry", *TO_MAIN)
    assert total(tuple(early)) == Total(500 * 7 + 40 * 1_000_000, 540)
    # Whatever isn't complete was counted, each allocation once.
    assert total(ended(report, "broken")).count == report.losses.get("unmapped_code", 0)
    assert ended(report, "guessed") == ()
    assert late.raw["count"] == 540 - sum(report.losses.values())
    for site in ended(report, "broken"):
        if "early_inner" in site.functions:
            assert site.functions == ("early_inner",)


@pytest.mark.parametrize(("command", "is_cached"), crossed([False, True], [False, True]))
def test_no_frame_is_wrong_before_the_table_is_there(
    compiled: Compiler, tmp_path: Path, command: bool, is_cached: bool
) -> None:
    """The plugin's frames show a caller that never called, to who goes by frame pointers."""
    path = compiled("decoy_plugin.c", "-shared", "-fPIC", "-fomit-frame-pointer")
    calls, work = 2000, ("call 2000 50", "unload", f"load {path}", "call 2000 50")
    cache = new_cache(tmp_path / "cache")
    program = compiled("stack_plugins.c")
    for _ in range(1 + is_cached):
        with ExitStack() as stack:
            if command:
                (tmp_path / "script").write_text("\n".join((f"load {path}", *work)) + "\n")
                given = ("--", "sh", "-c", f"exec {program} <{tmp_path}/script >/dev/null")
                tracer = stack.enter_context(Tracer(*ONE_REPORT, NEVER, *given, env=cache))
                report = tracer.finish().reports[-1]
            else:
                target = stack.enter_context(Target([program]))
                target.await_ready()
                options = ("-p", str(target.pid), *ONE_REPORT, NEVER)
                tracer = stack.enter_context(Tracer(*options, env=cache))
                tracer.await_armed()
                for one in (f"load {path}", *work):
                    target.do(one)
                report = tracer.stop().reports[-1]
                assert target.end() == 0
    sites = report.sites_under("decoy_inner")
    assert total(sites) == Total(2 * (77 + calls * 50), 2 * (1 + calls))
    for site in sites:
        if site.raw["stack_end"] != "complete":
            assert (site.functions, site.raw["stack_end"]) == (("decoy_inner",), "broken")
        elif site.total.bytes == 77 * site.total.count:
            assert site.functions[:3] == ("decoy_inner", "decoy_middle", "decoy_loaded")
            # The first one comes too early, within microseconds; on a busy machine it may not.
            assert site.total.count in (1, 2)
        else:
            above = ("decoy_middle", "decoy_outer", "plugin_entry", *TO_MAIN)
            assert_called_by(site, "decoy_inner", *above)
    broken = total(ended(report, "broken")).count
    assert 1 <= broken == report.losses["unmapped_code"]


def test_another_plugin_in_the_same_place(compiled: Compiler) -> None:
    """Unwind tables and names are those of the currently loaded plugin."""
    first, second = plugin(compiled, "first", 64), plugin(compiled, "second", 4000)
    with Target([compiled("stack_plugins.c")]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), *ONE_REPORT, OFTEN) as tracer:
            tracer.await_armed()
            (place,) = target.do(f"load {first}")
            next_look(tracer)
            target.do("call 3 100")
            next_look(tracer)
            target.do("unload")
            (other_place,) = target.do(f"load {second}")
            next_look(tracer)
            target.do("call 5 1000")
            report = tracer.stop().reports[-1]
        assert target.end() == 0
    assert place // 4096 == other_place // 4096
    (site,) = report.sites_under("first_inner")
    assert_called_by(site, "first_inner", "first_outer", "plugin_entry", *TO_MAIN)
    assert site.total == Total(300, 3)
    assert site.frames[0].module == str(first)
    (site,) = report.sites_under("second_inner")
    assert_called_by(site, "second_inner", "second_outer", "plugin_entry", *TO_MAIN)
    assert site.total == Total(5000, 5)
    assert site.frames[0].module == str(second)


def test_another_plugin_before_the_next_look(compiled: Compiler) -> None:
    """Its code never gets the names or unwind tables of the plugin before."""
    first, second = plugin(compiled, "first", 64), plugin(compiled, "second", 4000)
    with Target([compiled("stack_plugins.c")]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), *ONE_REPORT, "3") as tracer:
            tracer.await_armed()
            target.do(f"load {first}")
            target.do("call 3 100")
            tracer.next_report()
            target.do("unload")
            target.do(f"load {second}")
            target.do("call 5 1000")
            report = tracer.stop().reports[-1]
        assert target.end() == 0
    assert (
        sum(site.total.count for site in report.sites if site.functions[0] == "second_inner") == 5
    )
    for site in report.sites_under("second_inner"):
        is_whole = site.functions[-1] == "_start"
        assert is_whole or site.raw["stack_end"] != "complete"


@pytest.mark.parametrize(("frame_bytes", "command"), crossed([64, 4000], [False, True]))
def test_plugins_that_take_turns(
    compiled: Compiler, tmp_path: Path, frame_bytes: int, command: bool
) -> None:
    """Each is loaded, allocates and is unloaded before leaktrace can read the mappings; the next
    one, with frames of the same size or not, takes its place. Allocations are reported for the
    plugin that made them, and for no other."""
    first, second = plugin(compiled, "first", 64), plugin(compiled, "second", frame_bytes)
    rounds = 1000
    with ExitStack() as stack:
        program = compiled("stack_plugins.c")
        if command:
            (tmp_path / "script").write_text(f"cycle {rounds} {first} {second}\n")
            given = ("--", "sh", "-c", f"exec {program} <{tmp_path}/script >/dev/null")
            tracer = stack.enter_context(Tracer(*ONE_REPORT, NEVER, *given))
            report = tracer.finish().reports[-1]
        else:
            target = stack.enter_context(Target([program]))
            target.await_ready()
            tracer = stack.enter_context(Tracer("-p", str(target.pid), *ONE_REPORT, OFTEN))
            tracer.await_armed()
            target.do(f"cycle {rounds} {first} {second}")
            report = tracer.stop().reports[-1]
            assert target.end() == 0
    assert report.under("first_inner") == Total(rounds * 100, rounds)
    assert report.under("second_inner") == Total(rounds * 1000, rounds)
    for name, path in (("first", first), ("second", second)):
        for site in report.sites_under(f"{name}_inner"):
            assert {frame.module for frame in site.frames[:1]} == {str(path)}
            if site.raw["stack_end"] == "complete":
                assert_called_by(site, f"{name}_inner", f"{name}_outer", "plugin_entry")
                assert "main" in site.functions
    ids = [site.raw["id"] for site in report.sites]
    assert len(ids) == len(set(ids))  # the same code is one site, wherever it was loaded


def test_lost_events_do_not_matter_after_the_next_look(compiled: Compiler) -> None:
    """Plugins are loaded while leaktrace doesn't run, and their events don't fit into the buffer.
    Those that are loaded later are named, although they are unloaded at once."""
    lost_ones = [plugin(compiled, name, 64) for name in ("first", "second")]
    later_ones = [plugin(compiled, name, 64) for name in ("third", "fourth")]
    with Target([compiled("stack_plugins.c")]) as target:
        target.await_ready()
        options = ("--event-buffer-size", str(64 << 10))
        with Tracer("-p", str(target.pid), *ONE_REPORT, *options, OFTEN) as tracer:
            tracer.await_armed()
            tracer.process.send_signal(signal.SIGSTOP)
            target.do(f"cycle 1000 {lost_ones[0]} {lost_ones[1]}")
            tracer.process.send_signal(signal.SIGCONT)
            before = next_look(tracer).losses
            target.do(f"cycle 20 {later_ones[0]} {later_ones[1]}")
            report = tracer.stop().reports[-1]
        assert target.end() == 0
    assert before["region_events"] > 0
    assert report.losses["region_events"] == before["region_events"]
    assert report.under("third_inner") == Total(20 * 100, 20)
    assert report.under("fourth_inner") == Total(20 * 1000, 20)
    for name, path in zip(("third", "fourth"), later_ones, strict=True):
        for site in report.sites_under(f"{name}_inner"):
            assert site.frames[0].module == str(path)


def test_a_plugin_written_over(compiled: Compiler, tmp_path: Path) -> None:
    """Another plugin in the same file, at the same address: they share only the inode number."""
    first, second = plugin(compiled, "first", 64), plugin(compiled, "second", 64)
    path = tmp_path / "plugin.so"
    shutil.copyfile(first, path)
    with Target([compiled("stack_plugins.c")]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), *ONE_REPORT, NEVER) as tracer:
            tracer.await_armed()
            target.do(f"load {path}")
            target.do("call 3 100")
            target.do("unload")
            shutil.copyfile(second, path)
            target.do(f"load {path}")
            target.do("call 5 1000")
            report = tracer.stop().reports[-1]
        assert target.end() == 0
    (site,) = (site for site in report.sites if site.total.bytes == 5000)
    assert site.functions[0] == "second_inner"
    (site,) = (site for site in report.sites if site.total.bytes == 300)
    assert site.functions[0] != "second_inner"  # its own names are overwritten


def test_plugins_in_namespaces_of_their_own(compiled: Compiler) -> None:
    """Their loader's lists are not read: unknown code has no name, and no wrong one."""
    first, second = plugin(compiled, "first", 64), plugin(compiled, "second", 64)
    with Target([compiled("stack_plugins.c")]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), *ONE_REPORT, NEVER) as tracer:
            tracer.await_armed()
            target.do(f"namespaces 20 {first} {second}")
            report = tracer.stop().reports[-1]
        assert target.end() == 0
    for name, size in (("first", 100), ("second", 1000)):
        for site in report.sites_under(f"{name}_inner"):
            assert site.total.bytes == site.total.count * size
    assert any(site.functions[0] is None for site in report.sites)


def test_no_frame_is_wrong_in_a_namespace_of_its_own(compiled: Compiler) -> None:
    """What was loaded there is not known, so code in no list may be a library, not generated."""
    path = compiled("decoy_plugin.c", "-shared", "-fPIC", "-fomit-frame-pointer")
    with Target([compiled("stack_plugins.c")]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), *ONE_REPORT, NEVER) as tracer:
            tracer.await_armed()
            target.do(f"namespaces 2 {path} {path}")
            report = tracer.stop().reports[-1]
        assert target.end() == 0
    unnamed = [site for site in report.sites if site.functions[0] is None]
    assert total(tuple(unnamed)).bytes >= 4 * 77 + 2 * (100 + 1000)
    assert {(len(site.frames), site.raw["stack_end"]) for site in unnamed} == {(1, "broken")}


def libraries(folder: Path) -> list[Path]:
    """More than leaktrace has room for until it looks at the mappings."""
    made = []
    for number in range(20):
        source = folder / f"needed{number}.c"
        source.write_text(f"int needed{number};\n")
        made.append(folder / f"libneeded{number}.so")
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", made[-1], source], check=True)
    return made


def plugin_with(compiled: Compiler, name: str, needed: list[Path]) -> Path:
    """A plugin that other libraries are loaded with."""
    flags = (f"-DNAME={name}", "-DFRAME_BYTES=64", "-shared", "-fPIC", "-Wl,--no-as-needed")
    return compiled("stack_plugin.c", *flags, *map(str, needed))


def test_no_frame_is_wrong_in_an_object_that_there_is_no_room_for(
    compiled: Compiler, tmp_path: Path
) -> None:
    """The last one that is loaded with a plugin, and the first one to run."""
    decoy = compiled("decoy_plugin.c", "-shared", "-fPIC", "-fomit-frame-pointer")
    path = plugin_with(compiled, "only", [*libraries(tmp_path), decoy])
    with Target([compiled("stack_plugins.c")]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), *ONE_REPORT, NEVER) as tracer:
            tracer.await_armed()
            target.do(f"load {path}")
            report = tracer.stop().reports[-1]
        assert target.end() == 0
    (site,) = report.sites_under("decoy_inner")
    assert site.total == Total(77, 1)
    assert (site.functions, site.raw["stack_end"]) == (("decoy_inner",), "broken")


def test_more_objects_at_once_than_there_is_room_for(compiled: Compiler, tmp_path: Path) -> None:
    """Twenty libraries are loaded with one, in the place of another one: none is confused with
    that."""
    first = plugin(compiled, "first", 64)
    second = plugin_with(compiled, "second", libraries(tmp_path))
    with Target([compiled("stack_plugins.c")]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), *ONE_REPORT, NEVER) as tracer:
            tracer.await_armed()
            target.do(f"cycle 20 {first} {second}")
            report = tracer.stop().reports[-1]
        assert target.end() == 0
    for name, size in (("first", 100), ("second", 1000)):
        for site in report.sites_under(f"{name}_inner"):
            assert site.total.bytes == site.total.count * size


def test_the_first_call_of_an_executed_program_is_its_own(compiled: Compiler) -> None:
    """Not the dynamic loader's, at which its libraries aren't mapped yet: the program is stopped at
    the first one, and short."""
    library = plugin(compiled, "only", 64)
    linking = ("-Wl,--no-as-needed", str(library), f"-Wl,-rpath,{library.parent}")
    program = compiled("calls_plugin.c", *linking)
    with Tracer(*ONE_REPORT, NEVER, "--", "sh", "-c", f"exec {program}") as tracer:
        report = tracer.finish().reports[-1]
    (site,) = report.sites_under("only_inner")
    assert_called_by(site, "only_inner", "only_outer", "plugin_entry", "main")


def test_plugins_of_a_program_that_was_executed(compiled: Compiler) -> None:
    first, second = plugin(compiled, "first", 64), plugin(compiled, "second", 4000)
    with Target([compiled("commands.c")]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), *ONE_REPORT, OFTEN) as tracer:
            tracer.await_armed()
            target.send(f"exec {compiled('stack_plugins.c')}")
            target.await_ready()
            next_look(tracer)
            target.do(f"cycle 50 {first} {second}")
            report = tracer.stop().reports[-1]
        assert target.end() == 0
    assert report.under("first_inner") == Total(5000, 50)
    assert report.under("second_inner") == Total(50000, 50)


# --- exec ------------------------------------------------------------------------------------


def test_an_exec(compiled: Compiler) -> None:
    """The tables are those of the new image, which maps the same libc somewhere else."""
    program = compiled("stack_walkers.c")
    with Target([compiled("commands.c")]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), *ONE_REPORT, OFTEN) as tracer:
            tracer.await_armed()
            target.do("malloc 1 10")
            next_look(tracer)
            target.send(f"exec {program}")
            target.await_ready()
            next_look(tracer)
            target.do("inner 1001")
            target.do("dig 60 1002")
            report = tracer.stop().reports[-1]
        assert target.end() == 0
    (site,) = report.sites_under("scenario_inner")
    assert_called_by(site, "scenario_inner", "scenario_outer", "main")
    (site,) = report.sites_under("dig")
    assert_called_by(site, *["dig"] * 60, "main")
    assert report.under("scenario_command_malloc") == Total()


# --- files that aren't what their path says --------------------------------------------------


def test_another_mount_namespace(
    compiled: Compiler, tmp_path: Path, require_tool: Callable[[str], str]
) -> None:
    """Its root directory is separate, and its libc is another file than ours, which can't be
    reached by path from outside of its mount namespace."""
    program = compiled("stack_walkers.c")
    root = tmp_path / "root"
    root.mkdir()
    listing = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    libraries = [Path(path) for path in re.findall(r"(/\S+) \(0x", listing)]
    script = f"mount -t tmpfs none {root} && cp --parents {' '.join(map(str, libraries))} {root}"
    script += f" && cp {program} {root}/program && exec chroot {root} /program"
    unshare = [require_tool("unshare"), "--mount", "sh", "-c", script]
    with Target(unshare) as target:
        target.await_ready()
        assert list(root.iterdir()) == []
        with Tracer("-p", str(target.pid), *ONE_REPORT, NEVER) as tracer:
            tracer.await_armed()
            target.do("inner 1001")
            (report,) = tracer.stop().reports
        assert target.end() == 0
    (site,) = report.sites_under("scenario_inner")
    assert_called_by(site, "scenario_inner", "scenario_outer", "main")
    assert Path(site.frames[0].module or "").name == "program"
    assert "__libc_start_main" in site.functions
    assert report.losses == {}


@pytest.mark.parametrize("replaced", [False, True], ids=["deleted", "replaced"])
def test_a_deleted_binary(compiled: Compiler, tmp_path: Path, replaced: bool) -> None:
    """The mapped file counts, not the file that its path names now."""
    program = tmp_path / "program"
    shutil.copy(compiled("stack_walkers.c"), program)

    def take_away() -> None:
        program.unlink()
        if replaced:  # by one whose tables and symbols would be wrong
            shutil.copy(compiled("stack_kinds.cpp", "-O2", "-fomit-frame-pointer"), program)

    def drive(target: Target) -> tuple[int, ...]:
        target.do("dig 50 1002")
        return target.do("inner 1001")

    report = trace_work([program], drive=drive, before_attaching=take_away).report
    (site,) = report.sites_under("scenario_inner")
    assert_called_by(site, "scenario_inner", "scenario_outer", "main")
    (site,) = report.sites_under("dig")
    assert_called_by(site, *["dig"] * 50, "main")
    assert report.losses == {}
