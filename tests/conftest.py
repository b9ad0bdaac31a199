"""Fixtures and markers for every test.

A test that needs root, BPF or a tool says so, and is skipped with the reason where it is missing:

    pytestmark = pytest.mark.usefixtures("require_bpf")

    def test_musl(require_tool: Callable[[str], str]) -> None:
        compiler = require_tool("musl-gcc")

With LEAKTRACE_REQUIRE_ALL=1 a skip is a failure, so that a machine that should run everything
can't pass by running nothing. A test marked `may_skip("why")` needs something that not every such
machine has, and may be skipped anyway.

`make test` runs several tests at once (pytest-xdist). A test marked `alone("why")` would see or
disturb the others: while it runs, no other test does.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import hypothesis
import pytest

from leaktrace.errors import EnvironmentUnfitError
from leaktrace.machine.features import require_user_mode

_REQUIRE_ALL = os.environ.get("LEAKTRACE_REQUIRE_ALL", "") not in ("", "0")


def pytest_configure(config: pytest.Config) -> None:
    # A shell that runs this in the background makes it ignore SIGINT, and so would the programs
    # that tests start and interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line(
        "markers", "may_skip(reason): may be skipped even with LEAKTRACE_REQUIRE_ALL=1"
    )
    config.addinivalue_line("markers", "alone(reason): runs while no other test does")
    # How long an example takes depends on what else the machine does.
    hypothesis.settings.register_profile("untimed", deadline=None)
    hypothesis.settings.load_profile("untimed")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Generator[None, object, object]:
    with _turn(is_alone=_is_alone(item), is_next_alone=_is_alone(nextitem)):
        return (yield)


def _is_alone(item: pytest.Item | None) -> bool:
    return item is not None and item.get_closest_marker("alone") is not None


# The locks that a test that had to be alone left to the next one.
_left: list[int] = []


@contextmanager
def _turn(*, is_alone: bool, is_next_alone: bool) -> Iterator[None]:
    """Wait until no test that must be alone is running. A test that must be alone waits until no
    other is running, and leaves its turn to the next test of this process if that must be alone
    too: taking turns with the other processes, each would wait for the end of one of their tests.
    Every test takes the lock `door` and holds it only while it waits, so that others can't overtake
    a test that must be alone indefinitely. Locks are those of flock(2) on existing files.
    """
    if "PYTEST_XDIST_WORKER" not in os.environ:
        yield
        return
    here = Path(__file__)
    locks = list(_left) or [os.open(path, os.O_RDONLY) for path in (here, here.parent)]
    door, room = locks
    is_left = False
    try:
        if not _left:
            fcntl.flock(door, fcntl.LOCK_EX)
            fcntl.flock(room, fcntl.LOCK_EX if is_alone else fcntl.LOCK_SH)
            fcntl.flock(door, fcntl.LOCK_UN)
        yield
        is_left = is_alone and is_next_alone
    finally:
        _left[:] = locks if is_left else []
        if not is_left:
            for descriptor in locks:  # a child may still have copies of them
                fcntl.flock(descriptor, fcntl.LOCK_UN)
                os.close(descriptor)


@pytest.fixture
def default_signals() -> Iterator[None]:
    """The signals that a terminal or a service sends have their default effect in this process,
    even if the shell that runs the tests ignores them."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
    before = [(number, signal.signal(number, signal.SIG_DFL)) for number in numbers]
    yield
    for number, handler in before:
        signal.signal(number, handler)


def _fail_if_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    if _REQUIRE_ALL and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"LEAKTRACE_REQUIRE_ALL is set, and this was skipped: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if item.get_closest_marker("may_skip") is None:
        _fail_if_skipped(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A module that skips itself as a whole (importorskip) is a skip too."""
    report = yield
    _fail_if_skipped(report)
    return report


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the source tree."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def require_root() -> None:
    """Skip unless the tests run as root."""
    if os.geteuid() != 0:
        pytest.skip("needs root")


@pytest.fixture(scope="session")
def require_bpf(require_root: None) -> None:
    """Skip unless processes can be traced on this machine."""
    try:
        require_user_mode()
    except EnvironmentUnfitError as error:
        pytest.skip(f"{error.message}: {error.hint}")


@pytest.fixture(scope="session")
def require_tool() -> Callable[[str], str]:
    """A function that returns the path of a program, or skips where it isn't installed."""

    def find(name: str) -> str:
        path = shutil.which(name)
        if path is None:
            pytest.skip(f"needs {name}")
        return path

    return find
