"""--pair: functions that the user names. What the target counts itself is what a report shows, and
malloc's figures are those of a run without --pair."""

from __future__ import annotations

import ctypes.util
from typing import Any

import pytest
from harness.compiling import Compiler
from harness.length import chosen
from harness.reports import Report, Site, Total
from harness.target import Target
from harness.tracer import NEVER, ONE_REPORT, Tracer, run_leaktrace, trace_work
from harness.wording import names

pytestmark = pytest.mark.usefixtures("require_bpf")

POOL = "pool_take:pool_give:3:2"
TICKETS = "ticket_take:ticket_give"
LABEL_BYTES = 24


def section(report: Report, name: str) -> dict[str, Any]:
    (found,) = (one for one in report.raw["sections"] if one["section"] == name)
    assert isinstance(found, dict)
    return found


def outstanding(shown: dict[str, Any]) -> Total:
    return Total(shown["outstanding"]["bytes"], shown["outstanding"]["count"])


def shape(sites: tuple[Site, ...]) -> set[tuple[object, ...]]:
    """What is the same in two runs of one program."""
    return {
        (site.raw["id"], site.total, site.raw["allocated_count"], site.functions) for site in sites
    }


@pytest.mark.parametrize("options", [(), ("--combined-only",)], ids=str)
def test_a_pool_beside_malloc(compiled: Compiler, options: tuple[str, ...]) -> None:
    program = compiled("pairs.c")

    def drive(target: Target) -> tuple[int, ...]:
        return target.do("pool")

    alone = trace_work([program], *options, drive=drive).report
    traced = trace_work([program], "--pair", POOL, *options, drive=drive)
    shown = section(traced.report, "pool_take")
    assert outstanding(shown) == Total(*traced.account)
    (site,) = Report.sites_of(shown)
    assert site.functions[:2] == ("take", "use_pool")
    assert shown["pair"]["objects"] == [program.name]
    assert shown["pair"]["other_releases"] == 0
    assert traced.report.outstanding == Total(300 * LABEL_BYTES, 300)
    assert shape(traced.report.sites) == shape(alone.sites)
    assert not traced.report.lost_allocations


def test_allocated_and_freed_of_a_site(compiled: Compiler) -> None:
    traced = trace_work(
        [compiled("pairs.c")], "--pair", POOL, drive=lambda target: target.do("pool")
    )
    (site,) = Report.sites_of(section(traced.report, "pool_take"))
    assert site.raw["allocated_count"] == 300
    assert site.raw["allocated_bytes"] == sum(range(300))
    assert site.raw["freed_count"] == 200


@pytest.mark.parametrize(
    "options",
    chosen(
        [
            ("-s", "10", "-z", "1000", "--event-buffer", "perf"),
            ("--sample-bytes", "1000"),
            ("--max-overhead", "90", "--stack-walker", "fp"),
            ("-s", "10", "--combined-only"),
        ],
        [
            ("-s", "10"),
            ("-z", "1000"),
            ("--max-overhead", "90"),
            ("--stack-walker", "fp"),
            ("--event-buffer", "perf"),
            ("--sample-bytes", "1000", "--combined-only"),
        ],
    ),
    ids=" ".join,
)
def test_options_about_malloc_leave_pairs_as_they_are(
    compiled: Compiler, options: tuple[str, ...]
) -> None:
    def drive(target: Target) -> tuple[int, ...]:
        return target.do("pool") + target.do("tickets")

    pairs = ("--pair", POOL, "--pair", TICKETS)
    traced = trace_work([compiled("pairs.c")], *pairs, *options, drive=drive)
    pool = section(traced.report, "pool_take")
    assert outstanding(pool) == Total(*traced.account[:2])
    (site,) = Report.sites_of(pool)
    assert (site.raw["allocated_count"], site.raw["freed_count"]) == (300, 200)
    (site,) = Report.sites_of(section(traced.report, "ticket_take"))
    assert site.raw["count"] == traced.account[3]
    assert (site.raw["allocated_count"], site.raw["freed_count"]) == (100, 75)
    assert not traced.report.lost_allocations


def test_return_probes(compiled: Compiler) -> None:
    """They follow a function that points can't follow. The stacks of what it mallocs end there,
    because its return address is replaced."""
    traced = trace_work(
        [compiled("pairs.c")],
        *("--probe-returns", "--pair", POOL, "--pair", "jumping_take:free:1"),
        drive=lambda target: target.do("pool"),
    )
    assert outstanding(section(traced.report, "pool_take")) == Total(*traced.account)
    assert section(traced.report, "jumping_take")["pair"]["objects"]
    assert traced.report.outstanding == Total(300 * LABEL_BYTES, 300)
    assert not traced.report.lost_allocations


def test_pairs_alone(compiled: Compiler) -> None:
    def drive(target: Target) -> tuple[int, ...]:
        return target.do("pool") + target.do("tickets")

    pairs = ("--pair", POOL, "--pair", TICKETS, "--no-malloc")
    traced = trace_work([compiled("pairs.c")], *pairs, drive=drive)
    report = traced.report
    assert report.raw["section"] == "pool_take"
    assert report.outstanding == Total(*traced.account[:2])
    tickets = section(report, "ticket_take")
    assert outstanding(tickets) == Total(None, traced.account[3])  # type: ignore[arg-type]
    assert tickets["pair"]["sized"] is False
    (site,) = Report.sites_of(tickets)
    assert (site.raw["bytes"], site.raw["count"]) == (None, 25)
    assert not report.lost_allocations
    assert not report.raw["remarks"]


@pytest.mark.parametrize("work", ["nested", "threads"])
def test_what_calls_itself_and_threads(compiled: Compiler, work: str) -> None:
    pair = POOL if work == "threads" else "pool_take_twice:pool_give:2:2"
    traced = trace_work([compiled("pairs.c")], "--pair", pair, drive=lambda one: one.do(work))
    shown = section(traced.report, pair.split(":")[0])
    assert outstanding(shown) == Total(*traced.account)
    assert not traced.report.lost_allocations


@pytest.mark.parametrize("way", ["throwing", "jumping", "yielding", "signalling", "ending"])
def test_calls_that_are_left(compiled: Compiler, way: str) -> None:
    """The program goes on as if it weren't traced (its own account is right), and calls that did
    not return are no objects."""
    traced = trace_work(
        [compiled("pairs_leaving.cpp")],
        *("--pair", "thing_take:thing_give:2", "--no-malloc"),
        drive=lambda target: target.do(way),
    )
    assert traced.report.outstanding == Total(*traced.account)
    assert set(traced.report.lost_allocations) <= {"stale_calls"}


def test_two_pairs_see_the_same_call(compiled: Compiler) -> None:
    """pool_wrap jumps to pool_take: the two calls have the same stack pointer."""
    traced = trace_work(
        [compiled("pairs.c")],
        *("--pair", "pool_wrap:pool_give:2:2", "--pair", POOL),
        drive=lambda target: target.do("wrapped"),
    )
    for name in ("pool_wrap", "pool_take"):
        shown = section(traced.report, name)
        assert outstanding(shown) == Total(*traced.account)
        (site,) = Report.sites_of(shown)
        assert site.functions[0] == "use_wrapped"
    ids = {Report.sites_of(one)[0].raw["id"] for one in traced.report.raw["sections"]}
    assert len(ids) == 2
    assert not traced.report.lost_allocations


def test_what_is_no_object(compiled: Compiler) -> None:
    traced = trace_work(
        [compiled("pairs.c")],
        *("--pair", POOL, "--pair", TICKETS),
        drive=lambda target: target.do("failures"),
    )
    assert outstanding(section(traced.report, "pool_take")) == Total(1, 1)
    assert section(traced.report, "ticket_take")["outstanding"]["count"] == 1
    for one in traced.report.raw["sections"]:
        assert one["pair"]["other_releases"] == 0
    assert not traced.report.lost_allocations


def test_an_object_that_is_a_block_too(compiled: Compiler) -> None:
    """free releases it in both accounts."""
    traced = trace_work(
        [compiled("pairs.c")], "--pair", "strdup:free", drive=lambda target: target.do("copies")
    )
    shown = section(traced.report, "strdup")
    assert shown["outstanding"]["count"] == traced.account[1] == 10
    assert traced.report.outstanding == Total(10 * len("a copy\0"), 10)


def test_single_objects_and_calls(compiled: Compiler) -> None:
    with Target([compiled("pairs.c")]) as target:
        target.await_ready()
        options = ("-a", "-t", "--pair", TICKETS, "--no-malloc", *ONE_REPORT)
        with Tracer("-p", str(target.pid), *options, NEVER) as tracer:
            tracer.await_armed()
            target.do("tickets")
            outcome = tracer.stop()
    *events, report = outcome.stdout.splitlines()
    assert sum('"function":"ticket_take"' in line for line in events) == 100
    assert sum('"function":"ticket_give"' in line for line in events) == 75
    assert all('"bytes":null' in line for line in events)
    listed = Report(report).raw["allocations"]
    assert len(listed) == 25
    assert {one["address"] for one in listed} == {hex(number) for number in range(1, 101, 4)}
    assert {one["bytes"] for one in listed} == {None}


# --- libraries ------------------------------------------------------------------------------------


def test_libraries(compiled: Compiler) -> None:
    """OpenSSL, SQLite, stdio and the dynamic loader, each with its own account."""
    libraries = [ctypes.util.find_library(name) for name in ("ssl", "sqlite3")]
    if None in libraries:
        pytest.skip("libssl or libsqlite3 is not installed")
    linked = [f"-l:{name}" for name in libraries]
    program = compiled("library_pairs.c", "-Wl,--no-as-needed", *linked)
    pairs = {
        "SSL_new": "SSL_free",
        "fopen": "fclose",
        "sqlite3_malloc": "sqlite3_free:1",
        "dlopen": "dlclose",
    }
    options = [word for one in pairs.items() for word in ("--pair", ":".join(one))]
    alone = trace_work([program]).report
    traced = trace_work([program], *options)
    found = [section(traced.report, name)["outstanding"] for name in pairs]
    ssl, files, blocks, block_bytes, loaded = traced.account
    assert [one["count"] for one in found] == [ssl, files, blocks, loaded]
    assert [one["bytes"] for one in found] == [None, None, block_bytes, None]
    assert not traced.report.lost_allocations
    assert traced.report.outstanding == alone.outstanding
    for name in pairs:
        calls = section(traced.report, name)["pair"]
        assert (calls["other_releases"], calls["returned_again"]) == (0, 0), name


def test_counted_references_are_told(compiled: Compiler) -> None:
    """dlopen returns the same handle again: one object, and a line about it."""
    plugin = compiled("pool_plugin.c", "-shared", "-fPIC")
    traced = trace_work(
        [compiled("pool_plugin_host.c"), plugin],
        *("--pair", "dlopen:dlclose", "--no-malloc"),
        drive=lambda target: target.do("twice"),
    )
    assert traced.report.raw["outstanding"]["count"] == 0
    calls = traced.report.raw["pair"]
    assert (calls["returned_again"], calls["other_releases"]) == (1, 1)


# --- which functions ------------------------------------------------------------------------------


def test_a_command_from_its_start(compiled: Compiler) -> None:
    outcome = run_leaktrace(
        *ONE_REPORT,
        *("--pair", POOL, "--no-malloc", NEVER, "--", str(compiled("pairs.c"))),
        stdin="pool\n",
    )
    assert outcome.exit_code == 0, outcome.stderr
    report = Report(outcome.stdout.splitlines()[-1])
    assert report.outstanding.count == 100
    assert not report.losses  # the first stack is complete, too
    assert report.raw["stack_ends"] == {"complete": 1}


def test_a_library_that_is_loaded_later(compiled: Compiler) -> None:
    plugin = compiled("pool_plugin.c", "-shared", "-fPIC")
    with Target([compiled("pool_plugin_host.c"), plugin]) as target:
        target.await_ready()
        pair = f"{plugin.name}:plug_take:plug_give:1"
        options = ("-v", "--pair", pair, *ONE_REPORT)
        with Tracer("-p", str(target.pid), *options, NEVER) as tracer:
            tracer.await_armed()
            target.do("load")
            tracer.stderr.until(lambda line: "plug_take" in line and "hooked" in line)
            account = target.do("work")
            outcome = tracer.stop()
        assert target.end() == 0
    (report,) = outcome.reports
    shown = section(report, pair.removesuffix(":plug_give:1"))
    assert outstanding(shown) == Total(*account)
    assert any(plugin.name in note for note in report.raw["target"]["notes"])


def test_until_a_library_is_loaded_a_note_says_so(compiled: Compiler) -> None:
    traced = trace_work(
        [compiled("pairs.c")],
        *("--pair", "libcomes.so:come:go"),
        drive=lambda target: target.do("pool"),
    )
    shown = section(traced.report, "libcomes.so:come")
    assert shown["pair"]["objects"] == []
    assert any("libcomes.so" in note for note in traced.report.raw["target"]["notes"])


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        ("pool_tak:pool_give", ("pool_tak", "pool_take")),
        ("pool_take:pool_gives", ("pool_gives", "pool_give")),
        ("no_such_function:pool_give", ("no_such_function", "LIBRARY:")),
        ("c:pool_take:free", ("libc.so.6", "pool_take")),
        ("strlen:free", ("strlen", "IFUNC")),
        ("jumping_take:pool_give", ("jumping_take", "malloc", "--probe-returns")),
    ],
    ids=str,
)
def test_functions_that_cannot_be_traced(
    compiled: Compiler, pair: str, words: tuple[str, ...]
) -> None:
    with Target([compiled("pairs.c")]) as target:
        target.await_ready()
        outcome = run_leaktrace("-p", str(target.pid), "--pair", pair)
        assert target.end() == 0
    assert outcome.exit_code == 1
    assert "Traceback" not in outcome.stderr
    assert all(names(outcome.stderr, word) for word in words), outcome.stderr
