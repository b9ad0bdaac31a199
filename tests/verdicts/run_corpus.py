"""Trace the corpus, and write docs/verdicts.md (make verdicts; as root).

    python tests/verdicts/run_corpus.py [--only REGEX] [--pace NAME]... [--jobs N] [--no-page]
    python tests/verdicts/run_corpus.py --judge-again

What was said in each run is kept in build/verdicts (see corpus/running.py). `--judge-again` traces
nothing, and judges what is kept there. With --only or --pace, the page is not written.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests/support"), str(ROOT / "tests/verdicts")]

from corpus.building import build  # noqa: E402
from corpus.cases import CASES, Case  # noqa: E402
from corpus.judging import Judged, judge, read  # noqa: E402
from corpus.running import PACES, Plan, RunError, run  # noqa: E402

DIRECTORY = ROOT / "build/verdicts"
BY_NAME = {case.name: case for case in CASES}
SPEEDS = ("slow", "normal", "fast")


def plans(only: re.Pattern[str], paces: Sequence[str], *, variants: bool) -> list[Plan]:
    """All runs: each case at each speed, and some in other ways."""
    cases = [case for case in CASES if only.search(case.name)]
    found = [Plan(case.name, pace) for pace in paces for case in cases]
    if variants:
        for case in cases:
            found += _variants(case)
    return found


def _variants(case: Case) -> list[Plan]:
    found = [Plan(case.name, "normal", seed=2)]
    if not case.warm_ticks:
        found.append(Plan(case.name, "normal", is_command=True))
    return found


def trace(plan: Plan, program: Path) -> Judged | str:
    try:
        file = run(BY_NAME[plan.case], plan, program, DIRECTORY)
    except RunError as error:
        return str(error)
    return judged(file)


def judged(file: Path) -> Judged:
    fields, truth, said = read(file)
    plan = Plan(**{**{name: fields[name] for name in Plan.__dataclass_fields__}})
    plan = Plan(plan.case, plan.pace, plan.seed, plan.is_command, tuple(plan.options))
    return judge(BY_NAME[plan.case], plan.label, truth, said)


def show(one: Judged | str) -> None:
    if isinstance(one, str):
        print(f"FAILED  {one}", flush=True)
        return
    case = BY_NAME[one.case]
    said = ", ".join(one.said_at_end) or "no sites"
    if case.is_leak:
        what = f"{one.leaks_found}/{len(case.leaks)} found, {one.leaked_blocks} blocks leaked"
        if one.first_alarm is not None:
            what += f", first after {one.reports_to_alarm} reports, {one.blocks_at_alarm} blocks"
        is_right = one.leaks_found == len(case.leaks) or case.stops
    else:
        what = "" if one.is_settled else "not settled"
        is_right = True
    wrong = f"  FALSE in {one.false_reports}: {one.all_false_sites}" if one.false_reports else ""
    early = f"  early in {one.early_reports}" if one.early_reports else ""
    sign = "  " if is_right and not wrong else ("~~" if case.limit else "!!")
    print(f"{sign} {one.case:32} {one.label:10} {said:22} {what}{wrong}{early}", flush=True)


def main() -> None:
    arguments = argparse.ArgumentParser(description="Trace programs with known truth.")
    arguments.add_argument("--only", type=re.compile, metavar="REGEX")
    arguments.add_argument("--pace", action="append", choices=tuple(PACES))
    arguments.add_argument("--jobs", type=int, default=6, metavar="N", help="runs at once")
    arguments.add_argument("--variants", action="store_true", help="other ways, too")
    arguments.add_argument("--judge-again", action="store_true", help="trace nothing")
    given = arguments.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    only = given.only or re.compile("")
    if given.judge_again:
        results: list[Judged | str] = [judged(file) for file in sorted(DIRECTORY.glob("*.jsonl"))]
        for one in results:
            show(one)
        return
    if os.geteuid() != 0:
        sys.exit("this traces processes: run it as root")
    program = build(DIRECTORY)
    started = time.monotonic()
    todo = plans(only, given.pace or SPEEDS, variants=given.variants)
    with ThreadPoolExecutor(given.jobs) as executor:
        results = []
        for one in executor.map(lambda plan: trace(plan, program), todo):
            show(one)
            results.append(one)
    print(f"{len(results)} runs in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
