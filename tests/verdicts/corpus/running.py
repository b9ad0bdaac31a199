"""Traces one case, and keeps everything that was said: one file of JSON lines per run.

    {"run": {…}}                            the case, pace, options and times
    {"account": [[ns, what, …], …]}         the program's own account, see programs/case.h
    {"read_ns": …, "report": {…}}           each report, and when it was read (CLOCK_MONOTONIC)

Frames of reports are cut to the names of their functions and modules.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.target import Target
from harness.tracer import Tracer

from corpus.cases import Case


@dataclass(frozen=True)
class Pace:
    """How fast the program works, and how often leaktrace reports."""

    name: str
    tick_us: int
    interval_s: float
    reports: int

    @property
    def older_ms(self) -> int:
        """A tenth of the interval, as by default."""
        return round(self.interval_s * 100)


PACES = {
    pace.name: pace
    for pace in (
        Pace("slow", 30_000, 0.5, 40),
        Pace("normal", 10_000, 0.5, 24),
        Pace("fast", 3_333, 0.5, 30),
        Pace("short", 5_000, 0.25, 24),  # as "normal", in half the time
        Pace("long", 10_000, 1.0, 20),  # the program of "normal", reported on half as often
    )
}


@dataclass(frozen=True)
class Plan:
    """One run."""

    case: str
    pace: str
    seed: int = 1
    is_command: bool = False  # started by leaktrace, instead of attached to
    options: tuple[str, ...] = ()  # in addition to those of the case

    @property
    def label(self) -> str:
        how = (*(("-c",) if self.is_command else ()), *self.options)
        return " ".join((self.pace, *how, *((f"seed {self.seed}",) if self.seed != 1 else ())))

    def file_name(self) -> str:
        words = f"{self.case}-{self.label}".replace("--", "-").split()
        return "-".join(words) + ".jsonl"


class RunError(Exception):
    """leaktrace or the program did not do what it should."""


def run(case: Case, plan: Plan, program: Path, directory: Path) -> Path:
    """Trace a case. The file with what was said, in `directory`. Raises RunError."""
    pace = PACES[plan.pace]
    file = directory / plan.file_name()
    account = file.with_suffix(".account")
    account.unlink(missing_ok=True)
    argv = [program, case.program, pace.tick_us, plan.seed, case.warm_ticks]
    command = [str(word) for word in argv]
    options = [*case.options, *plan.options, "-f", "json", "-T", "100000", "-o", pace.older_ms]
    words = [str(word) for word in options]
    env = {"VERDICT_ACCOUNT": str(account)}
    try:
        if plan.is_command:
            times = [str(pace.interval_s), str(pace.reports)]
            with Tracer("--output", "-", *words, *times, "--", *command, env=env) as tracer:
                reports = _reports(tracer, pace)
        else:
            reports = _attached(command, words, pace, env)
        if len(reports) < pace.reports:
            raise RunError(f"{plan.case} {plan.label}: only {len(reports)} reports")
        said = [line.split() for line in account.read_text().splitlines()]
    except (AssertionError, OSError) as error:
        raise RunError(f"{plan.case} {plan.label}: {error}") from error
    finally:
        account.unlink(missing_ok=True)
    lines: list[dict[str, Any]] = [{"run": {**asdict(plan), "at": asdict(pace)}}]
    lines.append({"account": [[int(words[0]), *words[1:]] for words in said]})
    lines += [{"read_ns": read_ns, "report": report} for read_ns, report in reports]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return file


def _attached(
    command: Sequence[str], options: Sequence[str], pace: Pace, env: dict[str, str]
) -> list[tuple[int, dict[str, Any]]]:
    with Target(command, {**env, "VERDICT_WAIT": "1"}) as target:
        target.await_ready()
        times = (str(pace.interval_s), str(pace.reports))
        with Tracer("-p", str(target.pid), *options, *times) as tracer:
            tracer.await_armed()
            target.send()
            reports = _reports(tracer, pace)
        if target.process.poll() is not None:
            raise RunError(f"{command[1]} ended by itself, with {target.process.returncode}")
        if (status := target.end()) != 0:
            raise RunError(f"{command[1]} ended with {status}")
    return reports


def _reports(tracer: Tracer, pace: Pace) -> list[tuple[int, dict[str, Any]]]:
    """What leaktrace says until its end, and when."""
    reports = []
    while (line := tracer.stdout.next()) is not None:
        if line.startswith("{"):
            reports.append((time.monotonic_ns(), _slim(json.loads(line))))
    outcome = tracer.finish()
    if outcome.exit_code != 0 or "Traceback" in outcome.stderr:
        raise RunError(f"leaktrace ended with {outcome.exit_code}: {outcome.stderr[-2000:]}")
    return reports


def _slim(report: dict[str, Any]) -> dict[str, Any]:
    for part in (report, *report.get("sections", ()), *report.get("other_memory", ())):
        for site in part["sites"]:
            site["frames"] = [
                {
                    "function": frame.get("function"),
                    "module": Path(frame.get("module") or "").name,
                }
                for frame in site["frames"]
            ]
    return report
