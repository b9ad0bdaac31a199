"""Processes traced on other kernels: exact figures and complete stacks on each."""

from __future__ import annotations

import json
import sys

from harness.compiling import Compiler
from harness.reports import Total
from vm.guest import Guest

PAGE = 4096


def test_every_allocation_function(guest: Guest, compiled: Compiler) -> None:
    """At least one function of each shape of arguments: before Linux 5.15 each shape is hooked by a
    different program."""
    report = guest.trace("process", compiled("functions.c")).report
    truth = {
        "scenario_malloc": Total(3000, 3),
        "scenario_calloc": Total(1320, 4),
        "scenario_realloc_grows": Total(10000, 2),
        "scenario_reallocarray_grows": Total(1000, 1),
        "scenario_posix_memalign": Total(1000, 2),
        "scenario_memalign": Total(600, 2),
        "scenario_pvalloc": Total(240, 2),
        "scenario_mmap": Total(6 * PAGE, 2),
        "scenario_all_released": Total(),
    }
    assert {scenario: report.under(scenario) for scenario in truth} == truth
    assert report.losses == {}
    (site,) = report.sites_under("scenario_malloc")
    assert site.functions[:2] == ("scenario_malloc", "main")
    assert site.raw["stack_end"] == "complete"


def test_all_threads_of_a_process(guest: Guest, compiled: Compiler) -> None:
    """They were there before leaktrace, and free each other's blocks."""
    report = guest.trace("process", compiled("threads.c")).report
    assert report.outstanding == Total(500 * sum(range(100, 108)), 8 * 500)
    assert report.under("work") == report.outstanding
    assert {site.raw["stack_end"] for site in report.sites} == {"complete"}
    assert report.losses == {}


def test_stacks_by_unwind_tables(guest: Guest, compiled: Compiler) -> None:
    """Up to 127 frames, by programs that tail-call one another: the preferred walker."""
    # Lines are looked up in the background, and an emulated machine may be too slow: then a note
    # says so.
    options = ["--verbose", "--no-lines", "--no-inline"]
    traced = guest.trace("process", compiled("stacks.c"), "6", options=options)
    (walker,) = [line for line in traced.stderr.splitlines() if "stacks are walked by" in line]
    print(f"Linux {guest.kernel.release}: {walker}")
    assert walker == "leaktrace: stacks are walked by unwind tables"
    assert traced.report.raw["target"]["notes"] == []

    report = traced.report
    sites = report.sites_under("scenario_many")
    assert len(sites) == 64
    assert {site.total for site in sites} == {Total(48, 2)}
    assert {site.raw["stack_end"] for site in sites} == {"complete"}
    assert {site.functions[:9] for site in sites} == {("chain",) * 7 + ("scenario_many", "main")}

    (deep,) = [site for site in report.sites if site.functions[0] == "dig"]
    assert deep.total == Total(40, 1)
    assert deep.raw["stack_end"] == "truncated"
    assert deep.functions == ("dig",) * 127

    (in_handler,) = report.sites_under("scenario_in_handler")
    assert in_handler.functions[0] == "handler"
    assert in_handler.raw["stack_end"] == "complete"
    assert report.losses == {"truncated_stacks": 1}


def test_a_command_from_its_first_instruction(guest: Guest, compiled: Compiler) -> None:
    command = f"{compiled('kinds.c')} malloc 12345"
    options = ("--format", "json", "-c", command, "3600")
    outcome = guest.run(sys.executable, "-m", "leaktrace", *options)
    assert outcome.exit_code == 0, outcome.stderr
    (report,) = outcome.reports
    assert report.final
    (site,) = report.sites
    assert site.total == Total(12345, 1)
    assert site.functions[:2] == ("leak_kind", "main")
    assert site.raw["stack_end"] == "complete"
    assert report.losses == {}


def test_file_descriptors(guest: Guest, compiled: Compiler) -> None:
    program = compiled("descriptors.c", "-pthread")
    options = ("--format", "json", "--fds", "--no-malloc", "-T", "100", "3600", "--")
    commands = ("closed 30", "files 6", "sockets 2", "received 3")
    outcome = guest.run(sys.executable, "-m", "leaktrace", *options, program, *commands)
    assert outcome.exit_code == 0, outcome.stderr
    (report,) = outcome.reports
    assert report.raw["outstanding"]["count"] == 6 + 5 + 3 + 2  # and its two sockets
    (files,) = report.sites_under("open_files")
    assert files.raw["count"] == 6
    assert {site.raw["stack_end"] for site in report.sites} == {"complete"}
    assert report.losses == {}


def test_how_a_process_ends(guest: Guest, compiled: Compiler) -> None:
    """Its parent reaps it at once, so only the noted status is left."""
    script = f"""
    cd $(mktemp -d)
    mkfifo input
    sleep 3600 > input & keeps_it_open=$!
    {compiled("commands.c")} < input > said & target=$!
    {sys.executable} -m leaktrace -f json -p $target 3600 2> notices & tracer=$!
    until grep -q 'tracing pid' notices; do sleep 0.1; done
    echo "$1" > input
    [ "$1" = "calls 1" ] && kill -TERM $target
    wait $target; echo "$?" >&2
    wait $tracer; kill $keeps_it_open
    """
    for command, status, ending in (
        ("exit 3", "3", {"status": 3, "signal": None, "oom_killed": False}),
        ("hand-over\nexit 41", "41", {"status": 41, "signal": None, "oom_killed": False}),
        ("calls 1", "143", {"status": None, "signal": 15, "oom_killed": False}),
    ):
        outcome = guest.run("sh", "-c", script, "sh", command)
        assert outcome.stderr.split()[-1] == status
        (report,) = outcome.reports
        assert report.raw["ending"] == ending


def test_a_command_is_stopped_as_it_exits(guest: Guest, compiled: Compiler) -> None:
    script = f"""
    cd $(mktemp -d)
    {sys.executable} -m leaktrace -f json -o 0 --output report 3600 -- \\
        {compiled("exits.c")} plain 7 >&2
    cat report
    """
    outcome = guest.run("sh", "-c", script)
    (report,) = outcome.reports
    assert report.under("scenario_keep_large") == Total(20 << 20, 1)
    assert report.raw["ending"] == {"status": 7, "signal": None, "oom_killed": False}
    resident = report.raw["resident"]
    assert resident["at_exit"]
    own = outcome.stderr.partition("resident ")[2].split()[0]
    assert abs(resident["bytes"] - int(own) * 1024) < 1 << 20


def test_the_oom_killer(guest: Guest, compiled: Compiler) -> None:
    """Before Linux 6.9 the tracepoint names a thread, since then a task."""
    script = f"""
    cd $(mktemp -d)
    mkdir groups && mount -t cgroup2 none groups
    echo +memory > groups/cgroup.subtree_control
    mkdir groups/small
    echo 48M > groups/small/memory.max
    echo 0 > groups/small/memory.swap.max
    {sys.executable} -m leaktrace -f json -o 0 --output report 3600 -- \
        sh -c 'echo $$ > groups/small/cgroup.procs; exec {compiled("runs_out.c")}' >&2
    cat report
    """
    outcome = guest.run("sh", "-c", script)
    (report,) = outcome.reports
    assert report.raw["ending"] == {"status": None, "signal": 9, "oom_killed": True}
    assert report.under("scenario_keep").count > 30


def test_the_ranking_of_all_processes(guest: Guest, compiled: Compiler) -> None:
    """Page faults are counted by a program at an event of each CPU."""
    script = f"""
    cd $(mktemp -d)
    mkfifo input
    sleep 3600 > input & keeps_it_open=$!
    {compiled("grower.c")} < input > said & target=$!
    {sys.executable} -m leaktrace --all-processes -f json 3600 2> notices & tracer=$!
    until grep -q 'ranking' notices; do sleep 0.1; done
    echo "grow 5000" > input
    until grep -q 'done' said; do sleep 0.1; done
    kill -TERM $tracer; wait $tracer
    kill $keeps_it_open $target
    echo $target >&2
    """
    outcome = guest.run("sh", "-c", script)
    found = json.loads(outcome.stdout)
    assert found["notes"] == []
    assert found["losses"] == {"new_pages": 0, "ended_commands": 0}
    first = found["processes"][0]
    assert first["pid"] == int(outcome.stderr.split()[-1])
    assert 5000 <= first["new_pages"] < 5300
    # Before Linux 6.16 the kernel's figures lag behind by up to 64 pages of each CPU.
    assert abs(first["growth_bytes"] - 5000 * PAGE) < 300 * PAGE
