"""--idle on other kernels: exact where DAMON is, refused where it isn't."""

from __future__ import annotations

import json
import sys

from harness.tracer import REPOSITORY
from vm.guest import Guest


def test_what_is_used_and_what_is_not(guest: Guest) -> None:
    """Of Debian's kernels, those from 6.12 on have DAMON."""
    outcome = guest.run(sys.executable, "-m", "leaktrace", "doctor", "--json")
    (damon,) = [one for one in json.loads(outcome.stdout)["features"] if one["name"] == "DAMON"]
    is_there = guest.run_script("test -e /sys/kernel/mm/damon/admin").exit_code == 0
    assert (damon["state"] == "ok") == is_there
    major, minor = (int(number) for number in guest.kernel.release.split(".")[:2])
    assert is_there == ((major, minor) >= (6, 12))
    if is_there:
        outcome = guest.run(
            sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
            "-c", REPOSITORY / "pyproject.toml", REPOSITORY / "tests/kernel/test_idle.py",
        )  # fmt: skip
        assert outcome.exit_code == 0, outcome.stdout + outcome.stderr
        assert "2 passed" in outcome.stdout
        return
    outcome = guest.run(sys.executable, "-m", "leaktrace", "--idle", "1", "1", "--", "true")
    assert outcome.exit_code == 3
    assert "this kernel has no DAMON" in outcome.stderr
    assert "Traceback" not in outcome.stderr
