"""How much memory is left, compared with what free(1) and cgroups say."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from leaktrace.own.available_memory import available_bytes

CGROUPS = Path("/sys/fs/cgroup")
LIMIT = 64 << 20


def test_the_same_as_free(require_tool: Callable[[str], str]) -> None:
    """But for what changes in between."""
    printed = subprocess.run(
        [require_tool("free"), "-b"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    names, numbers = printed[0].split(), printed[1].split()[1:]
    available = int(numbers[names.index("available")])
    found = available_bytes()
    assert found is not None
    assert found <= available * 1.2
    assert found > 0


@pytest.fixture
def limited() -> Iterator[Path]:
    """A cgroup with a limit, in whichever version there is."""
    for root, limit in (
        (CGROUPS / "memory", "memory.limit_in_bytes"),
        (CGROUPS, "memory.max"),
    ):
        folder = root / f"leaktrace-test-{os.getpid()}"
        try:
            folder.mkdir()
        except OSError:
            continue
        try:
            (folder / limit).write_text(str(LIMIT))
            yield folder
            return
        except OSError:
            continue
        finally:
            with suppress(OSError):
                folder.rmdir()
    pytest.skip("no cgroup with a limit can be made here")


@pytest.mark.may_skip("containers may have no cgroup file system that can be written to")
def test_the_limit_of_a_cgroup(require_root: None, limited: Path) -> None:
    script = (
        "import os, pathlib, sys\n"
        "pathlib.Path(sys.argv[1], 'cgroup.procs').write_text(str(os.getpid()))\n"
        "from leaktrace.own.available_memory import available_bytes\n"
        "print(available_bytes())\n"
    )
    printed = subprocess.run(
        [sys.executable, "-c", script, limited], capture_output=True, text=True, check=True
    )
    assert 0 < int(printed.stdout) < LIMIT
