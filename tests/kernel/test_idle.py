"""--idle: what is said of each page is what the program does with it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from harness.compiling import Compiler
from harness.families import await_report, last_report
from harness.lines import DEADLINE_S
from harness.reports import Report
from harness.target import Target
from harness.tracer import ONE_REPORT, Tracer, run_leaktrace

pytestmark = [
    pytest.mark.usefixtures("require_bpf", "require_damon"),
    pytest.mark.xdist_group("damon"),  # there is one for the whole machine
    pytest.mark.may_skip("not every kernel has DAMON for physical memory"),
]

KDAMONDS = Path("/sys/kernel/mm/damon/admin/kdamonds")
BLOCKS, PAGE = 200, 4096  # as in the program
# The kernel can't mark a page before it is on one of its lists. The last pages that a processor has
# handed out may wait for that as long as nothing more is allocated there.
ENOUGH = 64  # pages
MOST_REPORTS = 60  # one per second; on a busy machine a look takes longer
SHORTEST = ("--idle=10s", *ONE_REPORT, "1")
ON_PAGES = ("used", "unused", "rarely")
TOGETHER = ("neighbour", "beside")  # on the same pages


def kdamonds() -> int:
    return int((KDAMONDS / "nr_kdamonds").read_text())


@pytest.fixture(scope="module")
def require_damon() -> None:
    if not KDAMONDS.exists():
        pytest.skip("this kernel has no DAMON")
    if kdamonds():
        (action,) = {
            one.read_text().strip() for one in KDAMONDS.glob("*/contexts/*/schemes/*/action")
        }
        assert action != "stat", "leaktrace has left DAMON running"
        pytest.skip(f"this machine uses DAMON itself ({action})")


def idle_share(report: Report, function: str) -> tuple[float, int, int]:
    """Of the blocks that a function has allocated: the idle part of what was looked at, and pages
    that were looked at and are idle."""
    (site,) = report.sites_under(function)
    found = site.raw.get("idle", {"looked_pages": 0, "idle_pages": 0, "looked_bytes": 0})
    looked = found["looked_pages"], found["idle_pages"]
    return (found["idle_bytes"] / found["looked_bytes"] if looked[0] else 0.0), *looked


def is_idle(report: Report, function: str) -> bool:
    """Whether all pages that are known are idle, and enough are known."""
    part, looked, _ = idle_share(report, function)
    return looked >= ENOUGH and part == 1.0


def test_what_is_used_and_what_is_not(compiled: Compiler) -> None:
    with Target([compiled("idle.c")]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), *SHORTEST, "--lost=last") as tracer:
            tracer.await_armed()
            began_s = time.monotonic()
            target.do()
            report = await_report(
                tracer, lambda one: is_idle(one, "unused") and is_idle(one, "rarely"), MOST_REPORTS
            )
            assert time.monotonic() - began_s > 10
            found = {name: idle_share(report, name) for name in (*ON_PAGES, *TOGETHER)}
            assert found["used"][0] == 0.0
            assert found["used"][1] >= ENOUGH
            # A page is used if any block on it is.
            assert found["neighbour"][2] == found["beside"][2] == 0
            info = report.raw["idle"]
            assert info["problems"] == []
            assert info["for_s"] == 10
            assert info["idle_pages"] == found["unused"][2] + found["rarely"][2]

            target.do("touch")
            report = await_report(
                tracer, lambda one: idle_share(one, "rarely")[2] == 0, MOST_REPORTS
            )
            assert idle_share(report, "rarely")[1] >= ENOUGH
            assert idle_share(report, "unused")[0] == 1.0
            # Reading the memory for --lost comes after the last look.
            report = last_report(tracer)
            assert report.raw["reach"]["read_bytes"] > 2 * BLOCKS * PAGE
            assert idle_share(report, "unused")[0] == 1.0
        assert target.end() == 0
    assert kdamonds() == 0


def test_kill_leaves_no_kdamond(compiled: Compiler) -> None:
    with Target([compiled("idle.c")]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), *SHORTEST) as tracer:
            tracer.await_armed()
            target.do()
            await_report(
                tracer, lambda report: report.raw["idle"]["watched_pages"] > 0, MOST_REPORTS
            )
            assert kdamonds() == 1
            # It is the only one on the machine.
            other = run_leaktrace("-p", str(target.pid), "--idle")
            assert other.exit_code == 3, other.stderr
            assert "DAMON is in use" in other.stderr
            assert "Traceback" not in other.stderr
            tracer.process.kill()
            tracer.process.wait(DEADLINE_S)
        for _ in range(int(DEADLINE_S * 10)):
            if kdamonds() == 0:
                break
            time.sleep(0.1)
        assert kdamonds() == 0
        assert target.end() == 0
