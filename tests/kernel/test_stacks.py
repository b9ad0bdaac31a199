"""Stacks: their number, depth and names."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from harness.compiling import Compiler
from harness.reports import Report, Total
from harness.target import Target
from harness.tracer import NEVER, ONE_REPORT, Tracer, trace_work

pytestmark = pytest.mark.usefixtures("require_bpf")


@pytest.fixture(scope="module")
def stacks(compiled: Compiler) -> Report:
    return trace_work([compiled("stacks.c"), "12"]).report


def test_every_stack_is_a_site_of_its_own(stacks: Report) -> None:
    """4,096 stacks, two blocks each. (memleak drops those whose hashes collide.)"""
    sites = stacks.sites_under("scenario_many")
    assert len(sites) == 4096
    assert {site.total for site in sites} == {Total(48, 2)}
    assert len({site.raw["id"] for site in sites}) == 4096
    assert {site.raw["stack_end"] for site in sites} == {"complete"}
    assert {site.functions[:15] for site in sites} == {("chain",) * 13 + ("scenario_many", "main")}


def test_a_stack_deeper_than_the_walk_is_truncated_and_says_so(stacks: Report) -> None:
    (site,) = [site for site in stacks.sites if site.functions[0] == "dig"]
    assert site.total == Total(40, 1)
    assert site.raw["stack_end"] == "truncated"
    assert set(site.functions) == {"dig"}
    assert stacks.losses == {"truncated_stacks": 1}


def test_a_stack_goes_through_a_signal_handler(stacks: Report) -> None:
    (site,) = stacks.sites_under("scenario_in_handler")
    assert site.total == Total(56, 1)
    assert site.functions[0] == "handler"
    assert site.raw["stack_end"] == "complete"
    assert "main" in site.functions


def test_a_site_has_the_same_id_in_every_run(compiled: Compiler) -> None:
    program = compiled("stacks.c")
    first, second = (trace_work([program, "4"]).report for _ in range(2))
    assert {site.raw["id"] for site in first.sites} == {site.raw["id"] for site in second.sites}


def test_a_program_without_frame_pointers_or_symbols(compiled: Compiler, tmp_path: Path) -> None:
    """Stripped: addresses within modules instead of names, and the stack is complete anyway."""
    program = tmp_path / "stripped"
    subprocess.run(
        ["strip", "-o", program, compiled("functions.c", "-fomit-frame-pointer")], check=True
    )
    report = trace_work([program]).report
    assert report.losses == {}
    own = [frame for site in report.sites for frame in site.frames if frame.module == str(program)]
    assert own
    for frame in own:
        assert frame.function is None
        assert frame.unknown
    assert {site.raw["stack_end"] for site in report.sites} == {"complete"}


def test_a_plugin_loaded_while_traced(compiled: Compiler) -> None:
    plugin = compiled("plugin.c", "-shared", "-fPIC")
    report = trace_work([compiled("plugin_host.c"), plugin]).report
    assert report.under("plugin_leak") == Total(990, 11)
    for site in report.sites_under("plugin_leak"):
        assert site.functions[0] == "plugin_leak"
        assert site.frames[0].module == str(plugin)


def test_a_plugin_unloaded_before_the_report_keeps_its_names(compiled: Compiler) -> None:
    """It was loaded when a report was made, and is unloaded at the time of the last one."""
    plugin = compiled("plugin.c", "-shared", "-fPIC")
    with Target([compiled("plugin_host.c"), plugin]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), *ONE_REPORT, "0.2") as tracer:
            tracer.await_armed()
            target.do()
            while tracer.next_report().under("plugin_leak") != Total(990, 11):
                pass
            target.do("unload")
            assert str(plugin) not in Path(f"/proc/{target.pid}/maps").read_text()
            report = tracer.stop().reports[-1]
        assert target.end() == 0
    assert report.under("plugin_leak") == Total(990, 11)


def test_names_beyond_ascii(compiled: Compiler) -> None:
    report = trace_work([compiled("names.c")]).report
    assert report.under("größe_λ_漏れ") == Total(210, 3)


@pytest.mark.parametrize("format_name", ["text", "memleak"])
def test_names_with_control_codes_never_reach_a_terminal(
    compiled: Compiler, tmp_path: Path, format_name: str
) -> None:
    if shutil.which("objcopy") is None:
        pytest.skip("needs objcopy")
    program = tmp_path / "names"
    subprocess.run(
        ["objcopy", "--redefine-sym", "leak_control=evil\x1b[31m\x07name",
         compiled("names.c", "-fno-pie", "-no-pie"), program],
        check=True,
    )  # fmt: skip
    with Target([program]) as target:
        target.await_ready()
        options = ["--format", format_name, "-o", "0"]
        with Tracer("-p", str(target.pid), *options, NEVER) as tracer:
            tracer.await_armed()
            target.do()
            outcome = tracer.stop()
        assert target.end() == 0
    assert outcome.exit_code == 0, outcome.stderr
    assert "evil" in outcome.stdout
    assert "größe_λ_漏れ" in outcome.stdout
    for character in outcome.stdout + outcome.stderr:
        assert character.isprintable() or character in "\n\t", repr(character)


def test_inlined_callers_are_frames(compiled: Compiler) -> None:
    """`map` and `map_at` of regions.c are static: where the compiler inlines them, the debug
    information still names them."""
    report = trace_work([compiled("regions.c", "-O3")]).report
    (site,) = report.sites_under("scenario_unmapped_tail")
    assert "map" in site.functions
    assert site.functions.index("map") < site.functions.index("scenario_unmapped_tail")
