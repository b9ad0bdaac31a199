"""What a program does, untraced and traced: it must be the same.

A program writes what it has seen to its standard output; lines "account BYTES COUNT" say what is
outstanding from below its function scenario() when it ends. leaktrace's figures must match them.
They are not part of the comparison.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.reports import Report, Total, total
from harness.target import Target
from harness.tracer import Tracer

_ACCOUNT = re.compile(r"account (\d+) (\d+)")


@dataclass(frozen=True)
class Ending:
    """What a program has written, and its exit status as the shell gives it."""

    lines: tuple[str, ...]
    status: int


@dataclass(frozen=True)
class Watched:
    """A traced run: how the program ended, and leaktrace's final report."""

    ending: Ending
    account: Total | None  # the program's own
    report: Report
    stderr: str

    @property
    def outstanding(self) -> Total:
        """From below scenario(), in C or in C++."""
        sites = self.report.sites_under("scenario") + self.report.sites_under("scenario()")
        return total(sites)


def untraced(argv: Sequence[str | Path], env: Mapping[str, str]) -> Ending:
    """How a program ends untraced."""
    with Target(argv, env) as target:
        target.await_ready()
        target.send()
        return _ending(*target.run_out())[0]


def attached(argv: Sequence[str | Path], env: Mapping[str, str], options: Sequence[str]) -> Watched:
    """The same, but leaktrace attaches before the work begins and traces to the end."""
    with Target(argv, env) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), *options) as tracer:
            tracer.await_armed()
            target.send()
            ending, account = _ending(*target.run_out())
            outcome = tracer.finish()
    assert outcome.exit_code == 0, outcome.stderr
    return _watched(ending, account, outcome.stdout, outcome.stderr)


def started(
    argv: Sequence[str | Path], env: Mapping[str, str], options: Sequence[str], reports: Path
) -> Watched:
    """The same, but leaktrace starts the program; it writes to the file `reports`."""
    before_argv = ["--output", reports, "--exit-code", "child", *options, "--", *argv]
    with Tracer(*before_argv, env=env) as tracer:
        tracer.await_armed()
        tracer.stdout.until(lambda line: line == "ready")
        assert tracer.process.stdin is not None
        tracer.process.stdin.write(b"go\n")
        tracer.process.stdin.close()
        outcome = tracer.finish()
    ending, account = _ending(outcome.stdout.splitlines(), outcome.exit_code)
    return _watched(ending, account, reports.read_text(), outcome.stderr)


def _ending(lines: Sequence[str], status: int) -> tuple[Ending, Total | None]:
    accounts = [found for line in lines if (found := _ACCOUNT.fullmatch(line)) is not None]
    account = Total(int(accounts[-1][1]), int(accounts[-1][2])) if accounts else None
    seen = tuple(line for line in lines if _ACCOUNT.fullmatch(line) is None)
    return Ending(seen, status if status >= 0 else 128 - status), account


def _watched(ending: Ending, account: Total | None, output: str, stderr: str) -> Watched:
    assert "Traceback" not in stderr, stderr
    reports = [line for line in output.splitlines() if '"leaktrace/report/1"' in line]
    assert reports, stderr
    return Watched(ending, account, Report(reports[-1]), stderr)
