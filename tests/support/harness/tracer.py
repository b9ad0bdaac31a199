"""Runs leaktrace as users do: a process with a command line, two streams and an exit status."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from harness.lines import DEADLINE_S, Lines
from harness.reports import Report
from harness.target import Target
from leaktrace.cache.directory import user_cache_directory

REPOSITORY = Path(__file__).resolve().parents[3]
COMMAND = (sys.executable, "-m", "leaktrace")

# Signals that the shell of the tests ignores (nohup: SIGHUP) are not ignored by started programs.
DEFAULT_SIGNALS = ("env", "--default-signal")

# No report but the last one, everything in it.
ONE_REPORT = ("--format", "json", "-o", "0", "-T", "100000")
NEVER = "3600"


def tracer_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment in which `python -m leaktrace` finds the code of this checkout."""
    paths = [str(REPOSITORY / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    # Where Python keeps no compiled modules, each start compiles them anew: a quarter of its time.
    kept = {"PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": ""}
    return {**os.environ, **kept, **(extra or {})}


def new_cache(home: Path) -> dict[str, str]:
    """The environment in which leaktrace's cache is new, apart from compiled programs, which take
    seconds. `home` is the cache directory of the user."""
    folder = home
    for part in ("leaktrace", "programs"):
        folder.mkdir(mode=0o700, exist_ok=True)
        folder /= part
    folder.mkdir(mode=0o700)
    cache = user_cache_directory()
    if cache is not None:
        for kept in (cache / "leaktrace/programs").glob("*.image"):
            # Other tests may remove it meanwhile, if the cache is full.
            with contextlib.suppress(FileNotFoundError):
                shutil.copy2(kept, folder)
    return {"XDG_CACHE_HOME": str(home)}


@dataclass(frozen=True)
class Outcome:
    """How a run of leaktrace ended."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def reports(self) -> list[Report]:
        return [Report(line) for line in self.stdout.splitlines()]


def run_leaktrace(
    *arguments: str | Path,
    prefix: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    stdin: str = "",
) -> Outcome:
    """Run leaktrace to its end. `prefix` is a command that runs it, e.g. setpriv."""
    completed = subprocess.run(
        [*DEFAULT_SIGNALS, *prefix, *COMMAND, *(str(argument) for argument in arguments)],
        input=stdin.encode(),
        capture_output=True,
        env=tracer_environment(env),
        timeout=DEADLINE_S,
        check=False,
    )
    return Outcome(
        completed.returncode,
        completed.stdout.decode("utf-8", "surrogateescape"),
        completed.stderr.decode("utf-8", "surrogateescape"),
    )


class Tracer:
    """A running leaktrace. As a context manager it is always killed at the end, by pid."""

    def __init__(
        self,
        *arguments: str | Path,
        env: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
        command: Sequence[str] = COMMAND,
        own_group: bool = False,
    ) -> None:
        """`prefix` is a command that runs it, `command` what it is called by; `own_group`: in a
        separate process group."""
        self.process = subprocess.Popen(
            [*DEFAULT_SIGNALS, *prefix, *command, *(str(argument) for argument in arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=tracer_environment(env),
            process_group=0 if own_group else None,
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.stdout = Lines(self.process.stdout, "leaktrace's stdout")
        self.stderr = Lines(self.process.stderr, "leaktrace's stderr")

    @property
    def pid(self) -> int:
        return self.process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        with contextlib.suppress(BrokenPipeError):
            assert self.process.stdin is not None
            self.process.stdin.close()
        self.process.wait(DEADLINE_S)

    def await_armed(self) -> Self:
        """Wait until leaktrace says that its probes are attached."""
        self.stderr.until(
            lambda line: re.search(r"tracing (pid|[\d,]+ processes)", line) is not None
        )
        return self

    def next_report(self) -> Report:
        line = self.stdout.next()
        assert line is not None, f"no report; stderr: {self.stderr.rest()}"
        return Report(line)

    def stop(self, by: signal.Signals = signal.SIGINT) -> Outcome:
        """Send a signal, and wait for the end."""
        self.process.send_signal(by)
        return self.finish()

    def finish(self) -> Outcome:
        """Wait for the end."""
        self.stdout.rest()
        self.stderr.rest()
        return Outcome(
            self.process.wait(DEADLINE_S),
            "".join(line + "\n" for line in self.stdout.seen),
            "".join(line + "\n" for line in self.stderr.seen),
        )


@dataclass(frozen=True)
class Traced:
    """The final report of a run, what the target printed, and leaktrace's stderr."""

    report: Report
    account: tuple[int, ...]
    stderr: str


def trace_work(
    argv: Sequence[str | Path],
    *options: str,
    drive: Callable[[Target], tuple[int, ...]] = Target.do,
    before_attaching: Callable[[], object] = lambda: None,
    target_env: Mapping[str, str] | None = None,
) -> Traced:
    """Start a target, attach, let it work, and return the report of that moment.

    Also checks what holds for every run: leaktrace exits with 0 and without a traceback, its last
    report says so, and the target lives on to its own end.
    """
    with Target(argv, target_env) as target:
        target.await_ready()
        before_attaching()
        with Tracer("-p", str(target.pid), *ONE_REPORT, *options, NEVER) as tracer:
            tracer.await_armed()
            account = drive(target)
            outcome = tracer.stop()
        assert outcome.exit_code == 0, outcome.stderr
        assert "Traceback" not in outcome.stderr, outcome.stderr
        assert target.end() == 0
    (report,) = outcome.reports
    assert report.final
    return Traced(report, account, outcome.stderr)
