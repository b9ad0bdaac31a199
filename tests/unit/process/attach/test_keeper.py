"""The keeper's requests and answers, and its end; no probes are needed for that."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from leaktrace.process.attach import keeper_child
from leaktrace.process.attach.keeper import Keeper, KeeperGoneError


@pytest.fixture
def keeper(default_signals: None) -> Iterator[Keeper]:
    keeper = Keeper()
    yield keeper
    keeper.end()


def attach(keeper: Keeper) -> int:
    """An invalid request: standard input is not a BPF program."""
    return keeper.attach_uprobes(0, "/dev/null", [0], [0], pid=os.getpid())


def test_the_kernels_errno_comes_back(keeper: Keeper) -> None:
    for _ in range(3):
        with pytest.raises(OSError, match="/dev/null") as raised:
            attach(keeper)
        # Which one depends on privileges and on what the kernel looks at first.
        assert raised.value.errno in {errno.EPERM, errno.EINVAL, errno.EBADF}
    assert not keeper.is_gone()


def test_descriptors_that_it_has_no_room_for_are_an_error(keeper: Keeper) -> None:
    keeper.remove([1])  # it has started
    resource.prlimit(keeper.pid, resource.RLIMIT_NOFILE, (3, 3))
    with pytest.raises(OSError, match="/dev/null") as raised:
        attach(keeper)
    assert raised.value.errno == errno.EMFILE


def test_the_answer_to_an_interrupted_request_is_passed_over(keeper: Keeper) -> None:
    with socket.socket(fileno=os.dup(keeper.fileno())) as connection:
        connection.send(json.dumps({"do": "remove", "numbers": [], "number": -1}).encode())
    keeper.remove([7])
    assert not keeper.is_gone()


def test_its_end_is_reported(keeper: Keeper) -> None:
    keeper.remove([1])
    os.kill(keeper.pid, signal.SIGKILL)
    with pytest.raises(KeeperGoneError, match=r"probe-keeper.*was killed by signal 9"):
        attach(keeper)
    assert keeper.is_gone()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_signals_of_terminals_and_services_do_not_end_it(
    keeper: Keeper, number: signal.Signals
) -> None:
    keeper.remove([1])
    os.kill(keeper.pid, number)
    keeper.remove([1])
    assert not keeper.is_gone()


def test_it_imports_next_to_nothing() -> None:
    """Each import would cost memory on every machine that leaktrace runs on."""
    path = str(keeper_child.__file__)
    program = (
        f"import sys; names = {{'__name__': 'keeper', '__file__': {path!r}}}; "
        f"exec(open({path!r}).read(), names); print(*sys.modules)"
    )
    listing = subprocess.run(
        [sys.executable, "-I", "-S", "-B", "-c", program],
        capture_output=True,
        text=True,
        check=True,
    )
    modules = listing.stdout.split()
    assert "leaktrace.bpf.probe_calls" in modules
    heavy = {"numpy", "subprocess", "typing", "pathlib", "dataclasses", "inspect", "site"}
    assert heavy.isdisjoint(modules)
