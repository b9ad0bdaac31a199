"""The open descriptors of processes that were given them."""

from __future__ import annotations

import os
import resource
import select
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from leaktrace.targets.open_files import (
    descriptor_limit,
    kind_of_target,
    open_descriptors,
    target_of,
)


def test_what_is_open(tmp_path: Path) -> None:
    """A child has what it is given."""
    with (tmp_path / "file").open("w") as file:
        given = (file.fileno(), os.dup(file.fileno()))
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=given[:1]) as child:
            found = open_descriptors(child.pid)
            targets = [target_of(child.pid, one) for one in given]
            child.communicate()
        os.close(given[1])
    assert found is not None
    assert found == {0, 1, 2, given[0]}
    assert targets == [str(tmp_path / "file"), None]


def test_the_limit() -> None:
    assert descriptor_limit(os.getpid()) == resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def test_a_process_that_has_ended() -> None:
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it is a zombie now
        assert open_descriptors(process.pid) is None
    assert open_descriptors(process.pid) is None
    assert descriptor_limit(process.pid) is None


def _epoll() -> int:
    with select.epoll() as one:
        return os.dup(one.fileno())


def _pipe() -> int:
    end, other = os.pipe()
    os.close(other)
    return end


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda: os.open("/etc", os.O_RDONLY), "file"),
        (lambda: os.open("/dev/null", os.O_RDONLY), "file"),
        (lambda: socket.socket().detach(), "socket"),
        (_pipe, "pipe"),
        (lambda: os.memfd_create("/name"), "memfd"),
        (lambda: os.eventfd(0), "eventfd"),
        (lambda: os.pidfd_open(os.getpid()), "pidfd"),
        (_epoll, "epoll"),
    ],
)
def test_kinds(make: Callable[[], int], kind: str) -> None:
    descriptor = make()
    target = target_of(os.getpid(), descriptor)
    os.close(descriptor)
    assert target is not None
    assert kind_of_target(target) == kind


def test_an_unknown_kind() -> None:
    assert kind_of_target("anon_inode:[newer]") is None
    assert kind_of_target("net:[4026531840]") is None
