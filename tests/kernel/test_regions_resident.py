"""What is in memory of mapped regions. The truth is what the target says by mincore(2), or what
/proc/PID/smaps says of it."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import Any

import pytest
from harness.compiling import Compiler
from harness.families import last_report
from harness.reports import Report, Site
from harness.target import Target
from harness.tracer import NEVER, ONE_REPORT, Tracer, run_leaktrace, trace_work

pytestmark = pytest.mark.usefixtures("require_bpf")

MIB = 1 << 20
_ENTRY = re.compile(
    r"^[0-9a-f]+-[0-9a-f]+ (\S+) \S+ \S+ \d+ *(\S*)$.*?^Rss: +(\d+) kB", re.M | re.S
)


@pytest.fixture
def program(compiled: Compiler) -> Path:
    return compiled("resident_regions.c", "-pthread")


def shared_rss(pid: int, path: str) -> int:
    """Resident bytes of the shared mappings of files whose paths begin so."""
    entries = _ENTRY.findall(Path(f"/proc/{pid}/smaps").read_text())
    return sum(
        int(kib) * 1024 for kind, name, kib in entries if kind[3] == "s" and name.startswith(path)
    )


def site_under(report: Report, function: str) -> Site:
    (site,) = report.sites_under(function)
    return site


@pytest.mark.parametrize("options", [(), ("--combined-only",)], ids=" ".join)
def test_what_is_written_to(program: Path, options: tuple[str, ...]) -> None:
    resident = 0

    def drive(target: Target) -> tuple[int, ...]:
        nonlocal resident
        (resident,) = target.do("touch")
        target.do("read")
        return target.do("map 100")

    report = trace_work([program], *options, drive=drive).report
    touched, read, mapped = (
        site_under(report, name).raw for name in ("touch_some", "only_read", "never_touch")
    )
    assert touched["resident_bytes"] == resident >= 3 * MIB
    assert [one["resident_bytes"] for one in (read, mapped)] == [0, 0]
    for one, size in ((touched, 64 * MIB), (read, MIB), (mapped, 100 * MIB)):
        assert one["bytes"] == one["reserved_bytes"] == size
        assert (one["is_region"], one["unread_bytes"], one["swapped_bytes"]) == (True, 0, 0)
    regions = report.raw["regions"]
    assert (regions["count"], regions["resident_bytes"]) == (3, resident)
    assert regions["reserved_bytes"] == report.outstanding.bytes == 165 * MIB
    assert regions["age_ms"] == 0
    # 100 MiB that were never touched don't stand on top.
    assert report.sites[0].raw == touched
    assert report.raw["remarks"] == []  # nothing needs another explanation


def test_in_words(program: Path) -> None:
    with Target([program]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), "-o", "0", NEVER) as tracer:
            tracer.await_armed()
            target.do("touch")
            target.do("threads 3")
            outcome = tracer.stop()
        assert target.end() == 0
    text = " ".join(outcome.stdout.split())
    assert "64.0 MiB reserved, 3.0 MiB resident in 1 mapping" in text
    assert "of it is reserved by 4 mapped regions, 3." in text
    assert "thread stacks: 3 x 8.0 MiB reserved, " in text
    assert "pthread_create+" not in text.partition("thread stacks")[2]  # only with -v


def test_a_command_that_has_ended(program: Path) -> None:
    """It is stopped as it exits, and its pages are looked at."""
    outcome = run_leaktrace("-c", str(program), *ONE_REPORT, NEVER, stdin="touch\nmap 100\n")
    assert outcome.exit_code == 0, outcome.stderr
    report = Report(outcome.stdout.splitlines()[-1])
    assert site_under(report, "touch_some").raw["resident_bytes"] >= 3 * MIB
    assert site_under(report, "never_touch").raw["resident_bytes"] == 0


def test_a_process_that_has_ended(program: Path) -> None:
    """What the last report has seen is known, and what is newer is not."""
    with Target([program]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), *ONE_REPORT, "0.2") as tracer:
            tracer.await_armed()
            (resident,) = target.do("touch")
            while not tracer.next_report().sites_under("touch_some"):
                pass
            target.process.send_signal(signal.SIGKILL)
            target.process.wait()
            report = Report(tracer.finish().stdout.splitlines()[-1])
    assert report.final
    site = site_under(report, "touch_some").raw
    assert (site["resident_bytes"], site["unread_bytes"]) == (resident, 0)
    assert report.raw["regions"]["age_ms"] > 0


def test_a_process_of_which_nothing_is_known(program: Path) -> None:
    with Target([program]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), *ONE_REPORT, NEVER) as tracer:
            tracer.await_armed()
            (resident,) = target.do("touch")
            target.process.send_signal(signal.SIGKILL)
            target.process.wait()
            report = Report(tracer.finish().stdout.splitlines()[-1])
    site = site_under(report, "touch_some").raw
    assert site["reserved_bytes"] == 64 * MIB
    if site["unread_bytes"] == 0:  # a busy machine: there was time for a look, 20 ms after the call
        assert (site["resident_bytes"], site["swapped_bytes"]) == (resident, 0)
        return
    assert (site["resident_bytes"], site["swapped_bytes"]) == (None, None)
    assert site["unread_bytes"] == 64 * MIB
    assert report.raw["regions"]["resident_bytes"] is None


def test_several_processes(program: Path) -> None:
    with Target([program]) as one, Target([program]) as other:
        pids = [target.await_ready().pid for target in (one, other)]
        with Tracer(
            "-p", ",".join(map(str, pids)), *ONE_REPORT, "--by", "process", NEVER
        ) as tracer:
            tracer.await_armed()
            residents = [target.do("touch")[0] for target in (one, other)]
            other.do("map 10")
            report = last_report(tracer)
        assert (one.end(), other.end()) == (0, 0)
    assert site_under(report, "touch_some").raw["resident_bytes"] == sum(residents)
    parts: dict[int, dict[str, Any]] = {part["pid"]: part for part in report.raw["by_process"]}
    assert [parts[pid]["regions"]["resident_bytes"] for pid in pids] == residents
    assert [parts[pid]["regions"]["count"] for pid in pids] == [1, 2]


def test_shared_memory(compiled: Compiler) -> None:
    resident = 0

    def drive(target: Target) -> tuple[int, ...]:
        nonlocal resident
        account = target.do("same")
        resident = shared_rss(target.pid, "/memfd:")
        return account

    report = trace_work([compiled("other_memory.c")], drive=drive).report
    (section,) = (one for one in report.raw["other_memory"] if one["outstanding"]["count"])
    assert section["regions"]["resident_bytes"] == resident
    assert section["regions"]["reserved_bytes"] == section["outstanding"]["bytes"]
