"""The judgement of verdicts about servers, and the library that injects a leak into them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from applications import Leak, Outcome, Trial, build_library, judge, row
from serving.servers import SERVERS

REDIS = SERVERS[0]


def report(kind: str, *sites: tuple[str, str]) -> dict[str, Any]:
    """A report with this verdict, and sites with theirs and a function."""
    return {
        "verdict": {"kind": kind},
        "sites": [
            {
                "verdict": {"kind": verdict, "bytes_per_s": 10.0},
                "frames": [{"function": function}, {"function": "main"}],
            }
            for verdict, function in sites
        ],
    }


def outcome(leak: Leak, *reports: dict[str, Any]) -> Outcome:
    return judge(Trial(REDIS, leak), reports, None)


def problems(leak: Leak, *reports: dict[str, Any]) -> str:
    return "; ".join(outcome(leak, *reports).problems(Trial(REDIS, leak)))


def test_what_is_right_has_no_problems() -> None:
    assert problems(Leak.NONE, report("steady", ("steady", "zmalloc"))) == ""
    found = report("growing", ("growing", "injected_leak"), ("steady", "zmalloc"))
    assert problems(Leak.INJECTED, report("steady"), found) == ""
    assert outcome(Leak.INJECTED, report("steady"), found).first_alarm == 2


def test_an_alarm_in_any_report_is_false_without_a_leak() -> None:
    said = problems(Leak.NONE, report("growing", ("overdue", "zmalloc")), report("steady"))
    assert "false alarm in 1 reports: overdue zmalloc < main" in said


def test_the_leak_must_be_the_first_site() -> None:
    sites = (("growing", "zmalloc"), ("growing", "injected_leak"))
    said = problems(Leak.INJECTED, report("growing", *sites))
    assert "the leak is site 2" in said
    assert "false alarm in 1 reports" in said


def test_a_leak_that_is_not_found_is_missed() -> None:
    said = problems(Leak.INJECTED, report("steady", ("filling", "injected_leak")))
    assert said == "missed; the verdict is steady"
    assert "missed" in row(
        Trial(REDIS, Leak.INJECTED), outcome(Leak.INJECTED, report("steady", ("steady", "main")))
    )


def test_the_library_counts_what_it_loses(
    tmp_path: Path, require_tool: Callable[[str], str]
) -> None:
    require_tool("gcc")
    account = tmp_path / "account"
    account.write_bytes(bytes(8))
    subprocess.run(
        ["dd", "if=/dev/zero", "of=/dev/null", "bs=1", "count=1000", "status=none"],
        env={
            **os.environ,
            "LD_PRELOAD": str(build_library(tmp_path)),
            "INJECTED_EACH": "100",
            "INJECTED_ACCOUNT": str(account),
        },
        check=True,
    )
    assert int.from_bytes(account.read_bytes(), "little") == 10
