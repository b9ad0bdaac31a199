"""`-p $(pidof worker)`: which words behind a process id are processes, too."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from leaktrace.cli.processes import with_all_processes


@pytest.fixture
def pids() -> Iterator[list[str]]:
    """Three processes of one program, and one of another."""
    with ExitStack() as stack:
        started = [
            stack.enter_context(subprocess.Popen(argv))
            for argv in (*[["sleep", "600"]] * 3, ["tail", "-f", "/dev/null"])
        ]
        yield [str(one.pid) for one in started]
        for one in started:
            one.kill()


def skip_small(pids: list[str]) -> None:
    if int(pids[1]) <= 60:
        pytest.skip("process ids are as small as intervals here")


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        (["-p", "{0}", "{1}", "{2}"], ["-p", "{0},{1},{2}"]),
        (["-p", "{0}", "{1}", "5", "10"], ["-p", "{0},{1}", "5", "10"]),
        (["-p{0}", "{1}"], ["-p{0},{1}"]),
        (["--pid={0}", "{1}", "-v"], ["--pid={0},{1}", "-v"]),
        (["--pid", "{0}", "{1}"], ["--pid", "{0},{1}"]),
        (["-v", "-p", "{0},{1}", "{2}"], ["-v", "-p", "{0},{1},{2}"]),
    ],
)
def test_processes_of_the_same_program(given: list[str], taken: list[str], pids: list[str]) -> None:
    skip_small(pids)
    words = [word.format(*pids) for word in given]
    assert with_all_processes(words) == [word.format(*pids) for word in taken]


@pytest.mark.parametrize(
    "given",
    [
        ["-p", "{0}"],
        ["-p", "{0}", "5", "10"],
        ["-p", "{0}", "{3}"],  # of another program
        ["-p", "{0}", "{0}"],  # itself
        ["-p", "{0}", "{1}.0"],
        ["-p", "{0}", "4000000"],
        ["--name", "sleep", "{0}"],
        ["-p"],
        ["-p", "x", "{1}"],
        [],
    ],
)
def test_other_words_stay_as_they_are(given: list[str], pids: list[str]) -> None:
    words = [word.format(*pids) for word in given]
    assert with_all_processes(words) == words
