"""Trace programs of Debian's packages, PyPI and npm, and write docs/tried-programs.md.

    python tests/tried/try_programs.py [--install] [--only REGEX]

Run it as root. With `--install`, missing packages are installed: Debian's with apt-get, those of
PyPI and npm in build/tried. What is missing otherwise is in the table as "not installed". With
`--only`, only these programs are tried again, and the others stay as they were recorded in
tests/tried/recorded.json.
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
from datetime import UTC, datetime
from pathlib import Path

from trying.programs import PROGRAMS, Origin, Program
from trying.results import Run, Trial, load, page, save
from trying.trial import Places, failed, source, try_program, untried

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/tried-programs.md"
RECORDED = ROOT / "tests/tried/recorded.json"
PLACES = Places(Path(sys.executable).parent / "leaktrace", ROOT, ROOT / "build/tried")


def packages(programs: Sequence[Program], origins: Sequence[Origin]) -> list[str]:
    found = {one.package for one in programs if one.origin in origins}
    if Origin.DEBIAN in origins:
        found |= {package for one in programs for package in one.also}
    return sorted(found)


def install(programs: Sequence[Program]) -> None:
    """Install what the programs are from. What can't be installed is reported by its trial."""
    PLACES.packages.mkdir(parents=True, exist_ok=True)
    venv = PLACES.packages / "venv"
    pip = [str(venv / "bin/python"), "-m", "pip", "install", "--quiet"]
    npm = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(PLACES.packages)]
    apt = ["apt-get", "install", "--yes", "--no-install-recommends"]
    commands = [
        [*apt, *packages(programs, (Origin.DEBIAN, Origin.BUILT)), "npm"],
        ["python3", "-m", "venv", str(venv)],
        [*pip, *packages(programs, (Origin.PYPI,))],
        [*npm, *packages(programs, (Origin.NPM,))],
    ]
    for command in commands:
        try:
            subprocess.run(
                command, check=True, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
            )
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"{command[0]}: {error}", file=sys.stderr)


def system_name() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system()


def leaktrace_version() -> str:
    argv = [str(PLACES.leaktrace), "--version"]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()[-1]


def try_all(programs: Sequence[Program], only: re.Pattern[str]) -> list[Trial]:
    recorded: dict[tuple[str, str], Trial] = {}
    if RECORDED.exists():
        recorded = {(one.name, one.source): one for one in load(RECORDED).trials}
    trials = []
    for program in programs:
        if not only.search(program.name):
            known = recorded.get((program.name, source(program)))
            trials.append(known or failed(untried(program, PLACES), "not tried"))
            continue
        started = time.monotonic()
        trial = try_program(program, PLACES)
        took_s = time.monotonic() - started
        found = trial.failure or dict(trial.stack_ends)
        print(f"{took_s:5.1f} s  {program.name}: {found}", flush=True)
        trials.append(trial)
    return trials


def main() -> None:
    arguments = argparse.ArgumentParser(description="Trace programs, and write a table of them.")
    arguments.add_argument("--install", action="store_true", help="install missing packages")
    arguments.add_argument("--only", type=re.compile, default=re.compile(""), metavar="REGEX")
    given = arguments.parse_args()
    if os.geteuid() != 0:
        sys.exit("this traces processes: run it as root")
    # What was started is ended, also then.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    if given.install:
        install(PROGRAMS)
    run = Run(
        date=datetime.now(UTC).strftime("%Y-%m-%d"),
        kernel=f"{platform.release()} {platform.machine()}",
        system=system_name(),
        leaktrace=leaktrace_version(),
        trials=try_all(PROGRAMS, given.only),
    )
    save(run, RECORDED)
    PAGE.write_text(page(run), encoding="utf-8")


if __name__ == "__main__":
    main()
