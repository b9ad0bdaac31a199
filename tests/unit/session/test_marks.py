"""Marks: who may ask for one, and what is said if nobody can answer."""

from __future__ import annotations

import errno
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from leaktrace.errors import LeaktraceError
from leaktrace.session import marks
from leaktrace.session.marks import Marked, MarkRequests, send_mark


@pytest.fixture(autouse=True)
def own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others may record on this machine at the same time."""
    monkeypatch.setattr(marks, "_PREFIX", f"leaktrace-test-{os.getpid()}-")


@pytest.fixture
def requests() -> Iterator[MarkRequests]:
    with closing(MarkRequests()) as requests:
        yield requests


def answered(
    requests: MarkRequests, name: str, pid: int | None = None, *, failure: str | None = None
) -> list[Any]:
    """What `send_mark` returns or raises, and the names of the marks that were made."""
    found: list[Any] = []

    def ask() -> None:
        try:
            found.append(send_mark(name, pid))
        except LeaktraceError as error:
            found.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    names: list[object] = []

    def mark(name: str) -> Marked:
        names.append(name)
        return Marked(17, failure)

    while asking.is_alive():
        requests.answer(mark)
        time.sleep(0.001)
    return [*found, *names]


def test_a_mark_has_a_name_and_a_report(requests: MarkRequests) -> None:
    own = f"{os.getpid()} ("
    for name, pid in (("after login", None), ("größe", os.getpid())):
        (report, which), marked = answered(requests, name, pid)
        assert (report, marked) == (17, name)
        assert which.startswith(own)  # and what it was started with


def test_a_mark_that_is_not_recorded_is_an_error(requests: MarkRequests) -> None:
    error, name = answered(requests, "full", failure="No space left on device")
    assert isinstance(error, LeaktraceError)
    assert (error.message, error.exit_code) == ("not recorded: No space left on device", 1)
    assert error.hint
    assert name == "full"


def test_a_failure_to_make_the_report_is_not_swallowed(requests: MarkRequests) -> None:
    def mark(_: str) -> Marked:
        raise OSError(errno.EIO, "the maps can't be read")

    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as asking:
        asking.connect(f"\0{marks._PREFIX}{os.getpid()}")
        asking.send(b"x")
        with pytest.raises(OSError, match="the maps can't be read"):
            requests.answer(mark)
        assert asking.recv(99) == b""


def test_one_that_has_gone_gets_its_mark_nevertheless(requests: MarkRequests) -> None:
    names: list[str] = []
    asking = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    asking.connect(f"\0{marks._PREFIX}{os.getpid()}")
    asking.send(b"x")

    def mark(name: str) -> Marked:
        names.append(name)
        asking.close()
        return Marked(1)

    requests.answer(mark)
    assert names == ["x"]


def test_names_are_made_printable(requests: MarkRequests) -> None:
    assert answered(requests, "\x1b[2J\n")[1:] == ["\\x1b[2J\\n"]
    _, long = answered(requests, "x" * 700)
    assert len(str(long)) == 200


def test_the_signal_makes_marks_with_numbers(requests: MarkRequests) -> None:
    names: list[str] = []

    def mark(name: str) -> Marked:
        names.append(name)
        return Marked(1)

    for _ in range(2):
        os.kill(os.getpid(), signal.SIGUSR2)
        assert requests.are_asked([])
        requests.answer(mark)
    assert not requests.are_asked([])
    requests.answer(mark)
    assert names == ["mark-1", "mark-2"]


def test_afterwards_the_signal_is_what_it_was() -> None:
    before = signal.getsignal(signal.SIGUSR2)
    requests = MarkRequests()
    assert signal.getsignal(signal.SIGUSR2) != before
    requests.close()
    assert signal.getsignal(signal.SIGUSR2) == before


def test_nobody_records() -> None:
    with pytest.raises(LeaktraceError, match="no leaktrace is recording here") as caught:
        send_mark("x", None)
    assert "--record" in caught.value.hint


def test_another_process_is_named(requests: MarkRequests) -> None:
    with pytest.raises(LeaktraceError, match="process 1 is no leaktrace that is recording") as one:
        send_mark("x", 1)
    assert f"recording here: {os.getpid()}" in one.value.message


def test_several_record(requests: MarkRequests) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as other:
        other.bind(f"\0{marks._PREFIX}1")
        other.listen()
        with pytest.raises(LeaktraceError, match=r"several are recording: 1\b") as caught:
            send_mark("x", None)
        assert caught.value.hint == "name one: leaktrace mark NAME -p 1"
        # That socket is not of the process that its name has.
        with pytest.raises(LeaktraceError, match="1 is not the process that answers for it"):
            send_mark("x", 1)


def test_one_that_asks_nothing_is_not_waited_for(
    requests: MarkRequests, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(marks, "_ASKER_S", 0.01)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as asking:
        asking.connect(f"\0{marks._PREFIX}{os.getpid()}")
        requests.answer(lambda _: pytest.fail("there is no name"))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another user")
def test_another_user_is_not_answered(
    requests: MarkRequests, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = os.fork()
    if child == 0:
        answer = b"?"
        try:
            os.setresuid(65534, 65534, 65534)
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as asking:
                asking.connect(f"\0{marks._PREFIX}{os.getppid()}")
                asking.send(b"x")
                answer = asking.recv(99)
        except ConnectionError:
            answer = b""
        finally:
            os._exit(len(answer))
    deadline = time.monotonic() + 60
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
        requests.answer(lambda _: pytest.fail("another user has made a mark"))
        time.sleep(0.001)
    assert ended == (child, 0)  # without an answer
