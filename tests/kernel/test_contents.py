"""--contents: what is shown of blocks is what the program says of them."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import pytest
from harness.compiling import Compiler
from harness.families import await_report, processes_of
from harness.reports import Report
from harness.target import Target
from harness.tracer import Tracer

pytestmark = [
    pytest.mark.usefixtures("require_bpf"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="addresses are of x86-64"),
]

MAKERS = ("make_sessions", "make_nodes", "make_hostile", "make_large", "make_requests")
OFTEN = ("1", "--format", "json", "-o", "0")
MOST_BYTES = 256


@pytest.fixture
def program(compiled: Compiler) -> Path:
    return compiled("contents.cpp")


def contents(report: Report, function: str) -> dict[str, Any]:
    (site,) = report.sites_under(function)
    found: dict[str, Any] = site.raw["contents"]
    return found


def sentences(report: Report, function: str) -> list[str]:
    return [one["sentence"] for one in contents(report, function)["shared"]]


def has_all(report: Report) -> bool:
    sites = [report.sites_under(one) for one in MAKERS]
    return all(some and "contents" in some[0].raw for some in sites) and (
        report.under("make_requests").count == 300
    )


def test_contents_are_those_that_the_program_says(program: Path) -> None:
    with Target([program]) as target:
        target.await_ready()
        options = ("-p", str(target.pid), "--contents", "--follow", *OFTEN)
        with Tracer(*options) as tracer:
            tracer.await_armed()
            target.do()
            await_report(tracer, lambda report: len(processes_of(report)) == 2)
            target.do()
            report = await_report(tracer, has_all)
            lines, status = target.run_out()
            outcome = tracer.finish()
    assert (status, outcome.exit_code) == (0, 0), outcome.stderr
    assert "Traceback" not in outcome.stderr
    truth = dict(line.split(" ", 2)[1:] for line in lines if line.startswith("truth "))
    assert report.raw["contents"] == {"problems": []}

    session, node, request, hostile, large = (
        contents(report, f"make_{name}")
        for name in ("sessions", "nodes", "requests", "hostile", "large")
    )
    counts = [one["read_count"] for one in (session, node, request, hostile, large)]
    assert counts == [300, 300, 300, 300, 1]
    assert all(one["gone_count"] == 0 for one in (session, node, request, hostile, large))

    # Bytes.
    first = session["blocks"][0]
    assert first["address"] == truth["session"]
    assert first["hex"][:16] == truth["vtable"]
    assert node["blocks"][0]["hex"] == truth["nodes"]
    assert request["blocks"][0]["hex"] == truth["request"]
    assert hostile["blocks"][0]["hex"] == truth["hostile"]
    (block,) = large["blocks"]
    assert (block["address"], block["size"]) == (truth["large"], 1 << 30)
    assert bytes.fromhex(block["hex"]) == b"large block".ljust(MOST_BYTES, b"\0")
    # Whose.
    assert first["pid"] == node["blocks"][0]["pid"] == target.pid != request["blocks"][0]["pid"]

    # Names.
    assert {"all 300 have 16 bytes", "all 300 begin with the vtable of Session"} <= set(
        sentences(report, "make_sessions")
    )
    (site,) = report.sites_under("make_sessions")
    assert sentences(report, "make_nodes") == [
        "all 300 have 40 bytes",
        "all 300 begin with a pointer to the function on_event",
        f"all 300 hold at +0x08 a pointer to a Session block of site {site.raw['id']}",
        "all 300 hold at +0x10 a pointer to the block itself",
        "all 300 hold at +0x18 a pointer to the data variable",
        "all 300 hold at +0x20 a pointer to the stack of the first thread",
    ]
    pointers = node["blocks"][0]["pointers"]
    assert [one["kind"] for one in pointers] == ["function", "block", "block", "data", "stack"]
    assert [one["value"] for one in pointers[:4]] == [
        truth[name] for name in ("handler", "session", "node", "variable")
    ]
    # Text.
    assert sentences(report, "make_requests") == [
        "all 300 have 64 bytes",
        '297 of 300 begin with "GET /api/"',
    ]
    assert [one["text"] for one in hostile["blocks"][0]["text"]] == [
        "[31mred",
        " left",
        "right",
        "forged",
    ]

    # At the end there is nothing to read any more, and it is said.
    last = outcome.reports[-1]
    assert last.final
    assert last.under("make_sessions").count == 300
    assert not any("contents" in site.raw for site in last.sites)
    problems = last.raw["contents"]["problems"]
    assert f"process {target.pid} has ended: the contents of its blocks can't be read" in problems
