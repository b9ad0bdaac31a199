"""Trace the corpus, and write docs/verdicts.md (make verdicts; as root).

    python tests/verdicts/run_corpus.py [--only REGEX] [--pace NAME]... [--jobs N]
    python tests/verdicts/run_corpus.py --judge-again [--write]

What was said in each run is kept in build/verdicts (see corpus/running.py). With --only or --pace,
these runs are shown, and the page is not written. `--judge-again` traces nothing: it judges what is
kept, and writes the page only with `--write`.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests/support"), str(ROOT / "tests/verdicts")]

from corpus.building import build  # noqa: E402
from corpus.cases import CASES  # noqa: E402
from corpus.judging import Judged, judge, read  # noqa: E402
from corpus.page import page  # noqa: E402
from corpus.results import BY_NAME, Results, is_missed, save, totals  # noqa: E402
from corpus.running import PACES, Plan, RunError, run  # noqa: E402

DIRECTORY = ROOT / "build/verdicts"
PAGE = ROOT / "docs/verdicts.md"
RECORDED = ROOT / "tests/verdicts/recorded.json"
SPEEDS = ("slow", "normal", "fast")
# Cases that are also traced from a sample: those whose blocks come fast.
SAMPLED = (
    *("leak_fast", "leak_list", "leak_varying_load", "leak_under_churn", "leak_two"),
    *("steady_churn", "cache_random_replacement", "sawtooth", "connections", "requests_overlap"),
    *("log_ring", "queue_under_varying_load"),
)


def plans(only: re.Pattern[str], paces: Sequence[str]) -> list[Plan]:
    """Each case at each of these speeds."""
    return [Plan(case.name, pace) for pace in paces for case in CASES if only.search(case.name)]


def other_ways() -> list[Plan]:
    """Some cases, traced in other ways."""
    found = [Plan(case.name, "long") for case in CASES[::4]]
    found += [Plan(case.name, "normal", seed=2) for case in CASES[1::3]]
    early = [case for case in CASES if not case.warm_ticks]
    found += [Plan(case.name, "normal", is_command=True) for case in early[::3]]
    found += [Plan(case.name, "normal", options=("--combined-only",)) for case in early[2::4]]
    for options in (("-s", "10"), ("--sample-bytes", "1024")):
        found += [Plan(name, "normal", options=options) for name in SAMPLED]
    return found


def trace(plan: Plan, program: Path) -> Judged | str:
    try:
        return judged(run(BY_NAME[plan.case], plan, program, DIRECTORY))
    except RunError as error:
        return str(error)


def judged(file: Path) -> Judged:
    plan, truth, said = read(file)
    return judge(BY_NAME[plan.case], plan.label, truth, said)


def trace_all(todo: Sequence[Plan], jobs: int) -> list[Judged | str]:
    program = build(DIRECTORY)
    found = []
    with ThreadPoolExecutor(jobs) as executor:
        for one in executor.map(lambda plan: trace(plan, program), todo):
            show(one)
            found.append(one)
    return found


def show(one: Judged | str) -> None:
    if isinstance(one, str):
        print(f"FAILED  {one}", flush=True)
        return
    case = BY_NAME[one.case]
    said = ", ".join(one.said_at_end) or "holds nothing"
    what = "" if one.is_settled else "not settled"
    if case.is_leak:
        what = f"{one.leaks_found}/{len(case.leaks)} found, {one.leaked_blocks} blocks leaked"
        if one.first_alarm is not None:
            what += f", first after {one.reports_to_alarm} reports, {one.blocks_at_alarm} blocks"
    wrong = f"  FALSE in {one.false_reports}: {one.all_false_sites}" if one.false_reports else ""
    early = f"  early in {one.early_reports}" if one.early_reports else ""
    is_wrong = is_missed(one) or wrong
    sign = "  " if not is_wrong else "~~" if case.limit else "!!"
    print(f"{sign} {one.case:32} {one.label:10} {said:22} {what}{wrong}{early}", flush=True)


def results_of(found: Sequence[Judged | str]) -> Results:
    leaktrace = Path(sys.executable).parent / "leaktrace"
    version = subprocess.run([leaktrace, "--version"], capture_output=True, text=True, check=True)
    try:
        system = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        system = platform.system()
    return Results(
        date=datetime.now(UTC).strftime("%Y-%m-%d"),
        kernel=f"{platform.release()} {platform.machine()}",
        system=system,
        leaktrace=version.stdout.split()[-1],
        runs=[one for one in found if isinstance(one, Judged)],
        failures=[one for one in found if isinstance(one, str)],
    )


def write(results: Results) -> None:
    save(results, RECORDED)
    PAGE.write_text(page(results), encoding="utf-8")


def main() -> None:
    arguments = argparse.ArgumentParser(description="Trace programs with known truth.")
    arguments.add_argument("--only", type=re.compile, metavar="REGEX", help="these cases")
    arguments.add_argument("--pace", action="append", choices=tuple(PACES), help="at this speed")
    arguments.add_argument("--jobs", type=int, default=8, metavar="N", help="runs at once")
    arguments.add_argument("--judge-again", action="store_true", help="trace nothing")
    arguments.add_argument("--write", action="store_true", help="with it: write the page")
    given = arguments.parse_args()
    # What was started is ended, also then.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    only = given.only or re.compile("")
    started = time.monotonic()
    if given.judge_again:
        todo = [*plans(only, SPEEDS), *(plan for plan in other_ways() if only.search(plan.case))]
        files = [DIRECTORY / plan.file_name() for plan in todo]
        found: list[Judged | str] = [judged(file) for file in files if file.exists()]
        for one in found:
            show(one)
        if given.write:
            write(results_of(found))
    elif os.geteuid() != 0:
        sys.exit("this traces processes: run it as root")
    elif given.only or given.pace:
        found = trace_all(plans(only, given.pace or SPEEDS), given.jobs)
    else:
        found = trace_all([*plans(only, SPEEDS), *other_ways()], given.jobs)
        write(results_of(found))
    print(f"{len(found)} runs, {time.monotonic() - started:.0f} s")
    print(totals([one for one in found if isinstance(one, Judged)]))


if __name__ == "__main__":
    main()
