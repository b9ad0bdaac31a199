"""--fds: what a process has open by its own count and by /proc is what a report shows, by the code
that opened it; and malloc's figures are those of a run without --fds."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness.compiling import PROGRAMS, Compiler
from harness.families import OFTEN, await_report, processes_of
from harness.go_programs import build_go_program
from harness.length import chosen
from harness.reports import Report, Site
from harness.target import Target
from harness.tracer import NEVER, ONE_REPORT, Tracer, run_leaktrace, trace_work
from harness.wording import names

pytestmark = pytest.mark.usefixtures("require_bpf")

ALONE = ("--fds", "--no-malloc")
NAME = "file descriptors"


@pytest.fixture
def program(compiled: Compiler) -> Path:
    return compiled("descriptors.c", "-pthread")


def working(*commands: str) -> Callable[[Target], tuple[int, ...]]:
    """Do this. The account: how many descriptors were left open by the target's own count, how
    many more are open by its /proc/self/fd, and how many are."""

    def drive(target: Target) -> tuple[int, ...]:
        (_, before) = target.do("files 0")
        each = [target.do(command) for command in commands]
        return sum(left for left, _ in each), each[-1][1] - before, each[-1][1]

    return drive


def open_now(target: Target) -> dict[int, str]:
    """The open descriptors, and where they lead."""
    folder = Path(f"/proc/{target.pid}/fd")
    return {int(one.name): str(one.readlink()) for one in folder.iterdir()}


def section(report: Report) -> dict[str, Any]:
    (found,) = (one for one in report.raw["sections"] if one["section"] == NAME)
    assert isinstance(found, dict)
    return found


def count_under(shown: dict[str, Any], function: str) -> int:
    return sum(
        int(site.raw["count"]) for site in Report.sites_of(shown) if function in site.functions
    )


def kinds_of(shown: dict[str, Any]) -> dict[str, int]:
    kinds: dict[str, int] = {}
    for site in shown["sites"]:
        for kind, count in site["kinds"].items():
            kinds[kind] = kinds.get(kind, 0) + count
    return kinds


def assert_whole(report: Report) -> None:
    """Nothing is lost, and each stack leads to the program's start."""
    assert report.losses == {}
    assert set(report.raw["stack_ends"]) <= {"complete"}


# --- figures --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "function", "kind"),
    [
        ("files 30", "open_files", "file"),
        ("pipes 20", "open_pipes", "pipe"),
        ("copies 10", "open_copies", "file"),
        ("replaced 15", "replace", "file"),
        ("received 7", "receive", "pipe"),
        ("threads 20", "open_in_thread", "file"),
        ("failures", "fail_to_open", "signalfd"),
    ],
)
def test_what_is_left_open(program: Path, command: str, function: str, kind: str) -> None:
    traced = trace_work([program], *ALONE, drive=working(command))
    report, (left, more, _) = traced.report, traced.account
    assert report.raw["section"] == NAME
    assert report.outstanding.count == left == more > 0
    assert count_under(report.raw, function) == left
    # A descriptor that dup2 has made leads to where its original does: the test's pipe.
    assert set(kinds_of(report.raw)) <= {kind, "pipe"}
    assert sum(kinds_of(report.raw).values()) == left
    assert_whole(report)
    assert report.raw["descriptors"]["unseen_closes"] == 0


def test_connections_by_the_code_that_made_them(program: Path) -> None:
    traced = trace_work([program], *ALONE, drive=working("sockets 12"))
    report, (left, more, _) = traced.report, traced.account
    assert report.outstanding.count == left == more == 25
    assert count_under(report.raw, "connect_to") == 12
    assert count_under(report.raw, "accept_from") == 12
    assert count_under(report.raw, "listen_at") == 1
    assert kinds_of(report.raw) == {"socket": 25}
    assert_whole(report)


def test_what_is_closed_is_not_shown(program: Path) -> None:
    """By close, close_range and dup2."""
    traced = trace_work([program], *ALONE, drive=working("closed 25", "files 3"))
    assert traced.report.outstanding.count == traced.account[1] == 3
    assert not count_under(traced.report.raw, "open_and_close")
    assert traced.report.raw["descriptors"]["unseen_closes"] == 0
    assert_whole(traced.report)


def test_allocated_and_freed_of_a_site(program: Path) -> None:
    """A site counts what it has opened, not only what is left."""
    traced = trace_work([program], *ALONE, drive=working("threads 20"))
    (site,) = traced.report.sites
    opened = int(site.raw["allocated_count"])
    assert (opened, site.raw["freed_count"], site.raw["count"]) == (160, 80, 80)
    assert site.raw["bytes"] is None
    assert site.raw["allocated_bytes"] is None


def test_kinds(program: Path) -> None:
    traced = trace_work([program], *ALONE, drive=working("kinds"))
    assert traced.account[0] == traced.account[1]
    assert kinds_of(traced.report.raw) == {
        **dict.fromkeys(
            ("epoll", "eventfd", "timerfd", "signalfd", "inotify", "memfd", "pidfd", "file"), 1
        ),
        "socket": 2,
        "pipe": 1,  # a duplicate of the standard input, of which /proc says what it is
    }
    assert_whole(traced.report)


def test_examples_lead_to_what_is_open(program: Path) -> None:
    """The oldest of each site, as the process's /proc names them."""
    with Target([program]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), *ALONE, *ONE_REPORT, NEVER) as tracer:
            tracer.await_armed()
            target.do("files 5")
            target.do("sockets 2")
            links = open_now(target)
            outcome = tracer.stop()
        target.end()
    (report,) = outcome.reports
    shown = [one for site in report.raw["sites"] for one in site["examples"]]
    assert len(shown) == 3 + 5
    for one in shown:
        assert one["target"] == links[one["fd"]]
    (files,) = report.sites_under("open_files")
    numbers = [one["fd"] for one in files.raw["examples"]]
    assert numbers == sorted(numbers)[:3]


def test_what_is_known_at_the_end(program: Path) -> None:
    """Where descriptors led in the last report before the process ended."""
    with Target([program]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), *ALONE, *OFTEN) as tracer:
            tracer.await_armed()
            target.do("files 3")
            target.do("kinds")
            links = open_now(target)
            await_report(tracer, lambda one: one.outstanding.count == 3 + 11)
            target.end()
            outcome = tracer.finish()
    last = outcome.reports[-1]
    assert last.final
    assert last.outstanding.count == 3 + 11
    for site in last.raw["sites"]:
        for one in site["examples"]:
            assert one["target"] == links[one["fd"]]
    assert kinds_of(last.raw)["file"] == 4
    assert "duplicate" not in kinds_of(last.raw)


def test_how_many_are_open(program: Path) -> None:
    drive = working("files 4", "limit 600")
    traced = trace_work([program], *ALONE, drive=drive)
    (use,) = traced.report.raw["descriptors"]["processes"]
    assert (use["open"], use["limit"], use["near_limit"]) == (traced.account[2], 600, False)
    assert use["older"] == traced.account[2] - 4
    assert use["unexplained"] == 0


def test_a_limit_that_is_near(program: Path) -> None:
    with Target([program]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), "--fds", "-o", "0", NEVER) as tracer:
            tracer.await_armed()
            target.do("limit 100")
            _, count = target.do("files 85")
            outcome = tracer.stop()
        target.end()
    assert f"{count} of 100 open: the limit is near" in outcome.stdout
    assert re.search(r"files; oldest: fd \d+ /etc/passwd, fd \d+ /etc/passwd", outcome.stdout)


def test_what_comes_in_another_way_is_told(program: Path) -> None:
    traced = trace_work([program], *ALONE, drive=working("many 5", "files 2"))
    assert traced.report.outstanding.count == 2
    (use,) = traced.report.raw["descriptors"]["processes"]
    assert use["unexplained"] == 5


def test_more_in_a_message_than_can_be_read(program: Path) -> None:
    traced = trace_work([program], *ALONE, drive=working("received 20"))
    report = traced.report
    assert report.losses == {"unread_descriptors": 20 - 16}
    assert report.outstanding.count == 16
    (use,) = report.raw["descriptors"]["processes"]
    assert use["unexplained"] == 20 - 16


# --- beside malloc --------------------------------------------------------------------------------


def shape(sites: tuple[Site, ...]) -> set[tuple[object, ...]]:
    return {(one.raw["id"], one.total, one.functions) for one in sites}


@pytest.mark.parametrize(
    "options",
    chosen(
        [(), ("-s", "10", "-z", "1000", "--event-buffer", "perf"), ("--sample-bytes", "1000")],
        [("-s", "10"), ("-z", "1000"), ("--max-overhead", "90"), ("--event-buffer", "perf")],
    ),
    ids=" ".join,
)
def test_beside_malloc(program: Path, options: tuple[str, ...]) -> None:
    traced = trace_work([program], "--fds", *options, drive=working("files 30", "closed 10"))
    shown = section(traced.report)
    assert shown["outstanding"] == {"bytes": None, "count": 30}
    (site,) = Report.sites_of(shown)
    assert (site.raw["allocated_count"], site.raw["freed_count"]) == (30, 0)
    assert "open_files" in site.functions
    assert not traced.report.lost_allocations


def test_mallocs_figures_stay_as_they_are(compiled: Compiler) -> None:
    program = compiled("pairs.c")

    def drive(target: Target) -> tuple[int, ...]:
        return target.do("pool")

    alone = trace_work([program], drive=drive).report
    pair = ("--pair", "pool_take:pool_give:3:2")
    traced = trace_work([program], "--fds", *pair, drive=drive)
    assert shape(traced.report.sites) == shape(alone.sites)
    assert [one["section"] for one in traced.report.raw["sections"]] == ["pool_take", NAME]
    assert traced.report.raw["sections"][0]["outstanding"]["count"] == traced.account[1]
    assert section(traced.report)["outstanding"]["count"] == 0
    assert not traced.report.lost_allocations


def test_by_frame_pointers(program: Path) -> None:
    traced = trace_work([program], *ALONE, "--stack-walker", "fp", drive=working("files 30"))
    assert traced.report.outstanding.count == 30


def test_a_stripped_static_program(compiled: Compiler) -> None:
    """No function is hooked."""
    program = compiled("descriptors.c", "-pthread", "-static", "-s")
    traced = trace_work([program], *ALONE, drive=working("files 30", "closed 10", "sockets 2"))
    assert traced.report.outstanding.count == traced.account[1] == 35
    assert kinds_of(traced.report.raw) == {"file": 30, "socket": 5}
    assert_whole(traced.report)
    with Target([program]) as target:
        target.await_ready()
        outcome = run_leaktrace("--fds", "-p", str(target.pid), "1", "1")
        target.end()
    assert outcome.exit_code != 0
    assert names(outcome.stderr, "malloc", "--no-malloc")


def test_a_program_of_go(tmp_path: Path) -> None:
    """Without C code; stacks lead through goroutines to their first functions."""
    source = PROGRAMS / "go_descriptors.go"
    program = build_go_program(tmp_path / "program", source=source, env={"CGO_ENABLED": "0"})
    traced = trace_work([program], *ALONE)
    (kept,) = traced.account
    # The runtime opens what it waits with, too: epoll and a pipe.
    files = [
        one for one in traced.report.sites_under("main.keepFile") if "file" in one.raw["kinds"]
    ]
    by_first = {
        first: sum(one.raw["count"] for one in files if first in one.functions)
        for first in ("main.main", "main.inGoroutine")
    }
    assert by_first == {"main.main": kept // 2, "main.inGoroutine": kept // 2}
    assert_whole(traced.report)


def test_single_descriptors_and_calls(program: Path) -> None:
    with Target([program]) as target:
        target.await_ready()
        options = ("-a", "-t", *ALONE, *ONE_REPORT)
        with Tracer("-p", str(target.pid), *options, NEVER) as tracer:
            tracer.await_armed()
            present = set(open_now(target))
            target.do("files 20")
            opened = set(open_now(target)) - present
            outcome = tracer.stop()
        target.end()
    *events, last = outcome.stdout.splitlines()
    assert sum('"function":"descriptor"' in line for line in events) == 20 + 1  # and /proc/self/fd
    assert sum('"function":"close"' in line for line in events) == 1
    listed = Report(last).raw["allocations"]
    assert {int(one["address"], 16) for one in listed} == opened
    assert {one["bytes"] for one in listed} == {None}


def test_a_full_map_is_a_loss(program: Path) -> None:
    traced = trace_work([program], *ALONE, "--max-allocs", "64", drive=working("files 200"))
    report = traced.report
    assert report.outstanding.count == 64
    # The last one is that of /proc/self/fd, which was closed again.
    assert report.losses == {"descriptors": traced.account[0] - 64 + 1}


# --- commands, children, programs that are executed -----------------------------------------------


@pytest.mark.parametrize("options", [("--fds",), ALONE], ids=" ".join)
def test_a_command_from_its_start(program: Path, options: tuple[str, ...]) -> None:
    """Descriptors that it has closed by close_range are not shown after its end."""
    commands = ("closed 30", "files 6", "sockets 2")
    outcome = run_leaktrace(*ONE_REPORT, *options, NEVER, "--", str(program), *commands)
    assert outcome.exit_code == 0, outcome.stderr
    report = Report(outcome.stdout.splitlines()[-1])
    shown = section(report) if len(options) == 1 else report.raw
    assert shown["outstanding"]["count"] == 6 + 5 + 2  # and its two sockets
    assert count_under(shown, "open_files") == 6
    assert count_under(shown, "main") == 13
    (use,) = shown["descriptors"]["processes"]  # as it exited
    assert (use["open"], use["older"], use["unexplained"]) == (13 + 3, 3, 0)
    assert report.losses == {}
    assert set(shown["stack_ends"]) == {"complete"}


def test_numbers_that_change_hands(program: Path) -> None:
    """Threads get the numbers that others close. The process has ended when it is reported, so the
    records alone are shown."""
    outcome = run_leaktrace(*ONE_REPORT, *ALONE, NEVER, "--", str(program), "storm 5000")
    assert outcome.exit_code == 0, outcome.stderr
    report = Report(outcome.stdout.splitlines()[-1])
    assert report.outstanding.count == 8 + 2  # and its two sockets
    (site,) = report.sites_under("storm_in_thread")  # what was opened elsewhere is closed
    counted = (site.raw["count"], site.raw["allocated_count"], site.raw["freed_count"])
    assert counted == (8, 4 * 5000, 4 * 5000 - 8)
    assert report.raw["descriptors"]["unseen_closes"] == 0
    assert_whole(report)


def test_an_exec_closes_what_it_should(program: Path) -> None:
    """What survives is open from before the program began, and is no leak of the new one."""
    with Target([program]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), *ALONE, *OFTEN) as tracer:
            tracer.await_armed()
            (_, before) = target.do("files 2")
            target.send("exec")
            target.await_ready()
            await_report(tracer, lambda one: one.outstanding.count == 2)  # its two sockets
            tracer.next_report()  # the mappings of the new program are known
            (_, count) = target.do("files 4")
            report = await_report(tracer, lambda one: one.outstanding.count == 2 + 4)
            tracer.stop()
        target.end()
    (use,) = report.raw["descriptors"]["processes"]
    assert count == before + 1 + 2 + 4  # one of three has survived
    assert (use["open"], use["older"], use["unexplained"]) == (count, before + 1, 0)
    assert count_under(report.raw, "open_files") == 4
    assert report.raw["descriptors"]["unseen_closes"] == 0
    assert report.losses == {}


def test_what_a_child_opens_is_not_its_parents(program: Path) -> None:
    traced = trace_work([program], *ALONE, drive=working("child 9", "files 2"))
    assert traced.report.outstanding.count == traced.account[1] == 5
    assert count_under(traced.report.raw, "open_in_child") == 3


def test_children_that_are_followed(program: Path) -> None:
    with Target([program]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), *ALONE, "--follow", *OFTEN) as tracer:
            tracer.await_armed()
            target.do("files 4")
            target.send("child 9")
            await_report(tracer, lambda one: len(processes_of(one)) == 2)
            left, _ = target.await_done()
            report = await_report(tracer, lambda one: one.outstanding.count == 4 + left + 9)
            tracer.stop()
        target.end()
    (child,) = (one["pid"] for one in report.raw["processes"] if one["pid"] != target.pid)
    (files,) = (
        site for site in report.sites_under("open_files") if "open_in_child" in site.functions
    )
    assert files.raw["processes"] == [{"pid": child, "bytes": None, "count": 9}]
    assert {one["pid"] for one in files.raw["examples"]} == {child}
    used = {one["pid"]: one for one in report.raw["descriptors"]["processes"]}
    assert set(used) == {child, target.pid}


def test_two_processes(program: Path) -> None:
    with Target([program]) as one, Target([program]) as other:
        one.await_ready()
        other.await_ready()
        with Tracer("-p", f"{one.pid},{other.pid}", *ALONE, *ONE_REPORT, NEVER) as tracer:
            tracer.await_armed()
            one.do("files 3")
            other.do("files 8")
            outcome = tracer.stop()
        one.end()
        other.end()
    (report,) = outcome.reports
    (site,) = report.sites
    held = {each["pid"]: each["count"] for each in site.raw["processes"]}
    assert held == {one.pid: 3, other.pid: 8}
    assert len(site.raw["examples"]) == 3


# --- what can't be done ---------------------------------------------------------------------------


def test_in_a_pid_namespace_it_is_refused(program: Path) -> None:
    with Target([program]) as target:
        target.await_ready()
        prefix = ("unshare", "--pid", "--fork", "--mount-proc")
        outcome = run_leaktrace("--fds", "-c", str(program), "1", "1", prefix=prefix)
        target.end()
    assert outcome.exit_code == 3
    assert names(outcome.stderr, "--fds")
    assert "pid namespace" in outcome.stderr
