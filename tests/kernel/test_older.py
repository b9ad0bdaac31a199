"""--heap: what is older than the trace is what the program had before."""

from __future__ import annotations

import platform
from typing import Any

import pytest
from harness.compiling import Compiler
from harness.target import Target
from harness.tracer import NEVER, Tracer

pytestmark = [
    pytest.mark.usefixtures("require_bpf"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="registers are known on x86-64 only"),
]

Object = dict[str, Any]
SESSION = "shop::Session"
OWN = 1  # of the C++ library: memory for exceptions when there is no other


def numbers(target: Target) -> dict[str, int]:
    """What the program said, by name."""
    words = [line.split() for line in target.seen]
    return {line[0]: int(line[1]) for line in words if len(line) == len(("name", "number"))}


def next_look(tracer: Tracer) -> Object:
    """What the next report says."""
    (found,) = tracer.next_report().raw["older_blocks"]
    assert found["problem"] == ""
    assert found["may_be_newer"] == []
    assert found["in_use"]["count"] == found["lost"]["scanned_count"]
    assert found["pause_ms"] > 0
    look: Object = found
    return look


def sessions(found: Object) -> int:
    (group,) = [one for one in found["groups"] if one["name"] == SESSION]
    return int(group["count"])


@pytest.mark.parametrize("with_lost", [False, True])
def test_old_blocks_beside_new_ones(compiled: Compiler, *, with_lost: bool) -> None:
    """However fast blocks come and go, none of them is called old."""
    with Target([compiled("older.cpp")]) as target:
        target.await_ready()
        truth = numbers(target)
        lost = ("--lost", "--stop") if with_lost else ()
        options = ("-f", "json", "--heap=every", *lost, "--max-pause-ms", "5000", "0.5")
        with Tracer("-p", str(target.pid), *options) as tracer:
            tracer.await_armed()
            found = next_look(tracer)
            count = truth["older"] + OWN
            assert (found["in_use"]["count"], found["unjudged_count"]) == (count, 0)
            assert found["in_use"]["bytes"] > truth["bytes"]
            named = {one["name"]: one for one in found["groups"]}
            of_classes = sum(named[name]["bytes"] for name in (SESSION, "GET /api/item"))
            assert of_classes == truth["bytes"]
            (group,) = found["lost_groups"]
            assert (group["name"], group["lost"]["definite_count"]) == (SESSION, truth["lost"])
            all_sessions = sessions(found)
            target.do("churn")
            for _ in range(3):
                found = next_look(tracer)
                assert found["in_use"]["count"] == count
                assert found["lost"]["definite_count"] == truth["lost"]
                assert found["unjudged_count"] <= 8  # two of each thread: realloc
            target.do("free")
            freed = numbers(target)["freed"]
            next_look(tracer)  # it may have begun before
            found = next_look(tracer)
            assert (found["in_use"]["count"], sessions(found)) == (
                count - freed,
                all_sessions - freed,
            )
            assert tracer.stop().exit_code == 0


def test_at_which_reports_and_what_is_not_known(compiled: Compiler) -> None:
    with Target([compiled("older.cpp")]) as target:
        target.await_ready()
        pid = str(target.pid)
        with Tracer("-p", pid, "-f", "json", "--heap", "0.3", "3") as tracer:
            reports = tracer.finish().reports
        assert [len(one.raw.get("older_blocks", [])) for one in reports] == [1, 0, 1]
        # It ends before the only look.
        with Tracer("-p", pid, "-f", "json", "--heap=last", NEVER) as tracer:
            tracer.await_armed()
            assert target.end() == 0
            (report,) = tracer.finish().reports
    (found,) = report.raw["older_blocks"]
    assert (found["problem"], found["in_use"]) == ("it ended before it was looked at", None)
