"""Verdicts about servers under a steady load, without a leak and with one (as root).

    python tests/verdicts/applications.py [--minutes N] [--warm-up S] [--only REGEX] [--jobs N]
        [--lost]

Each server runs for a minute under load before it is traced, then `--minutes` with a report every
5 seconds. It is traced once as it is; no site may be an alarm (growing or overdue) in any report.
It is traced again with tests/verdicts/serving/injected_leak.c, which loses a block of 200 bytes at
every 20th call of read or recv: its site must be the first in the final report, and growing.
python3 and node are traced once more with a script that leaks; there, other sites grow with the
leak, and are not judged. With --lost, memory decides: no site may be called lost but that of the
library. Reports are kept in build/verdicts-applications.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests/support"), str(ROOT / "tests/verdicts")]

from corpus.judging import ALARMS, Said  # noqa: E402
from harness.tracer import COMMAND, tracer_environment  # noqa: E402
from serving.processes import TrialError, last_line, running  # noqa: E402
from serving.servers import SERVERS, Place, Server  # noqa: E402

DIRECTORY = ROOT / "build/verdicts-applications"
LIBRARY = Path(__file__).parent / "serving/injected_leak.c"
EACH_CALL = 20
BLOCK_BYTES = 200
INTERVAL_S = 5
ATTACH_S = 120
ENDING = threading.Event()  # trials that run end what they have started


class Leak(StrEnum):
    NONE = "none"
    INJECTED = "injected"
    SCRIPT = "in its script"


@dataclass(frozen=True)
class Trial:
    server: Server
    leak: Leak

    reads_memory: bool = False  # --lost: only what nothing points to is an alarm

    @property
    def alarms(self) -> frozenset[str]:
        return frozenset({"leak"}) if self.reads_memory else frozenset(ALARMS)

    @property
    def file(self) -> Path:
        lost = "-lost" if self.reads_memory else ""
        return DIRECTORY / f"{self.server.name}-{self.leak.replace(' ', '-')}{lost}.jsonl"

    @property
    def function(self) -> str | None:
        """A function on the stack of the leak."""
        known = {Leak.INJECTED: "injected_leak", Leak.SCRIPT: self.server.script_leak}
        return known.get(self.leak)


@dataclass(frozen=True)
class Outcome:
    """What leaktrace said of a trial."""

    reports: int
    said_at_end: str
    """The verdict of the final report as a whole."""
    false_reports: int
    false_sites: tuple[str, ...]
    position: int | None
    """The first site that leaks, among the sites of the final report (1: the first)."""
    first_alarm: int | None
    leaked_bytes_per_s: float | None
    """By the library's own account."""
    said_bytes_per_s: float | None
    """The sum of the rates of its sites."""

    def problems(self, trial: Trial) -> list[str]:
        leak, found = trial.leak, []
        if self.false_reports:
            found.append(
                f"false alarm in {self.false_reports} reports: {'; '.join(self.false_sites)}"
            )
        if leak is not Leak.NONE and self.position != 1:
            found.append("missed" if self.position is None else f"the leak is site {self.position}")
        if (self.said_at_end in trial.alarms) != (leak is not Leak.NONE):
            found.append(f"the verdict is {self.said_at_end}")
        return found


def build_library(folder: Path) -> Path:
    library = folder / "injected_leak.so"
    flags = ["-O2", "-g", "-Wall", "-Wextra", "-D_GNU_SOURCE", "-shared", "-fPIC"]
    subprocess.run(["gcc", *flags, str(LIBRARY), "-o", str(library), "-ldl"], check=True)
    library.chmod(0o755)
    return library


def run(trial: Trial, minutes: float, warm_up_s: float) -> Outcome:
    """Raises TrialError."""
    with tempfile.TemporaryDirectory(prefix="verdicts-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # servers that give up root look in here, too
        env: dict[str, str] = {}
        account = folder / "account"
        account.write_bytes(bytes(8))
        account.chmod(0o666)
        if trial.leak is Leak.INJECTED:
            env = {
                "LD_PRELOAD": str(build_library(folder)),
                "INJECTED_EACH": str(EACH_CALL),
                "INJECTED_ACCOUNT": str(account),
            }
        place = Place(folder, env, trial.leak is Leak.SCRIPT)
        with trial.server.loaded(place) as loaded:
            _wait(warm_up_s)
            before = _lost(account)
            began = time.monotonic()
            reports = _traced(loaded.pids, folder, trial, minutes)
            rate = (_lost(account) - before) * BLOCK_BYTES / (time.monotonic() - began)
            if loaded.load.poll() is not None:
                raise TrialError(f"the load has ended: {last_line(folder / 'load.log')}")
    return judge(trial, reports, rate if trial.leak is Leak.INJECTED else None)


def _wait(time_s: float) -> None:
    if ENDING.wait(time_s):
        raise TrialError("interrupted")


def _lost(account: Path) -> int:
    return int.from_bytes(account.read_bytes(), "little")


def _traced(
    pids: Sequence[int], folder: Path, trial: Trial, minutes: float
) -> list[Mapping[str, Any]]:
    kept = trial.file
    count = max(1, round(minutes * 60 / INTERVAL_S))
    options = ["-p", ",".join(map(str, pids)), "-f", "json", "-T", "100000"]
    if len(pids) > 1:
        options.append("--follow")
    if trial.reads_memory:
        options.append("--lost")
    log = folder / "leaktrace.log"
    words = [*COMMAND, *options, "--output", str(kept), str(INTERVAL_S), str(count)]
    with running(words, log, env=tracer_environment()) as tracer:
        deadline = time.monotonic() + ATTACH_S + (count + 2) * INTERVAL_S
        while (status := tracer.poll()) is None:
            _wait(0.5)
            if time.monotonic() > deadline:
                raise TrialError("leaktrace does not end")
    if status != 0:
        raise TrialError(f"leaktrace ended with {status}: {last_line(log)}")
    reports = [json.loads(line) for line in kept.read_text(encoding="utf-8").splitlines()]
    if len(reports) < count:
        raise TrialError(f"only {len(reports)} reports: {reports[-1]['reason'] if reports else ''}")
    return reports


def judge(
    trial: Trial, reports: Sequence[Mapping[str, Any]], leaked_bytes_per_s: float | None
) -> Outcome:
    false_reports = 0
    false_sites: dict[str, None] = {}
    first_alarm = position = None
    for number, report in enumerate(reports, 1):
        is_false = False
        position = None
        for at, (kind, functions) in enumerate(Said(0, report).sites(), 1):
            if kind not in trial.alarms:
                continue
            if trial.function is not None and any(trial.function in name for name in functions):
                position = position or at
                first_alarm = first_alarm or number
            elif trial.leak is not Leak.SCRIPT:
                is_false = True
                false_sites[f"{kind} " + " < ".join(functions[:4])] = None
        false_reports += is_false
    rates = [
        site["verdict"].get("bytes_per_s") or 0
        for site in reports[-1]["sites"]
        if trial.function and any(trial.function in (f["function"] or "") for f in site["frames"])
    ]
    return Outcome(
        reports=len(reports),
        said_at_end=Said(0, reports[-1]).whole(),
        false_reports=false_reports,
        false_sites=tuple(false_sites),
        position=position,
        first_alarm=first_alarm,
        leaked_bytes_per_s=leaked_bytes_per_s,
        said_bytes_per_s=sum(rates) if rates else None,
    )


def row(trial: Trial, outcome: Outcome | str) -> str:
    if isinstance(outcome, str):
        return f"| {trial.server.name} | {trial.leak} | {outcome} | | | | |"
    rates = [
        "–" if rate is None else f"{rate:.0f}"
        for rate in (outcome.leaked_bytes_per_s, outcome.said_bytes_per_s)
    ]
    found = "–" if outcome.first_alarm is None else f"report {outcome.first_alarm}"
    problems = "; ".join(outcome.problems(trial)) or "none"
    words = [trial.server.name, trial.leak, outcome.said_at_end, found, *rates, problems]
    return "| " + " | ".join(word.replace("|", "\\|") for word in words) + " |"


def main() -> None:
    arguments = argparse.ArgumentParser(description="Verdicts about servers under load.")
    arguments.add_argument("--minutes", type=float, default=5, metavar="N", help="traced for")
    arguments.add_argument("--warm-up", type=float, default=60, metavar="S", help="before that")
    arguments.add_argument("--only", type=re.compile, default=re.compile(""), metavar="REGEX")
    arguments.add_argument("--jobs", type=int, default=3, metavar="N", help="trials at once")
    arguments.add_argument(
        "--lost", action="store_true", help="verdicts from memory, not from time"
    )
    given = arguments.parse_args()
    if os.geteuid() != 0:
        sys.exit("this traces processes: run it as root")
    # What was started is ended, also then.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    trials = [
        Trial(server, leak, given.lost)
        for server in SERVERS
        for leak in Leak
        if given.only.search(server.name)
        # What a script keeps in a list is pointed to.
        and (leak is not Leak.SCRIPT or (server.script_leak and not given.lost))
    ]

    def attempt(trial: Trial) -> Outcome | str:
        if missing := trial.server.missing:
            hint = f"apt-get install {trial.server.package}"
            return f"not installed ({', '.join(missing)}): {hint}"
        try:
            return run(trial, given.minutes, given.warm_up)
        except TrialError as error:
            return f"failed: {error}"

    print("| server | leak | verdict | found | leaked B/s | said B/s | wrong |")
    print("|---|---|---|---|---|---|---|", flush=True)
    is_right = True
    with ThreadPoolExecutor(given.jobs) as executor:
        try:
            for trial, outcome in zip(trials, executor.map(attempt, trials), strict=True):
                print(row(trial, outcome), flush=True)
                is_right &= isinstance(outcome, Outcome) and not outcome.problems(trial)
        finally:
            ENDING.set()
    sys.exit(0 if is_right else 1)


if __name__ == "__main__":
    main()
