"""Debuginfod servers that are slow or silent: reports don't wait for them."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from debug_samples import Sample, Server, assert_found, assert_missing, kept_files, offer, page
from harness.lines import DEADLINE_S

from leaktrace.options import SymbolOptions
from leaktrace.symbols import debuginfod
from leaktrace.symbols.debug_information import LookupContext
from leaktrace.symbols.lookups import Lookups

pytestmark = pytest.mark.usefixtures("no_servers")


@contextmanager
def slow_server(
    monkeypatch: pytest.MonkeyPatch, serve: Callable[[socket.socket], None]
) -> Iterator[list[bytes]]:
    """A server that treats each connection so; yields the requests that it got."""
    requests: list[bytes] = []

    def converse(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            requests.append(connection.recv(65_536))
            serve(connection)

    def listen(listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=converse, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=listen, args=(listener,), daemon=True).start()
        monkeypatch.setenv("DEBUGINFOD_URLS", f"http://127.0.0.1:{listener.getsockname()[1]}")
        yield requests
        listener.shutdown(socket.SHUT_RDWR)


def say_nothing(connection: socket.socket) -> None:
    while connection.recv(65_536):
        pass


def drip(connection: socket.socket, head: bytes) -> None:
    connection.sendall(head)
    while True:
        connection.sendall(b"x")
        time.sleep(0.05)


def drip_a_head(connection: socket.socket) -> None:
    drip(connection, b"HTTP/1.1 200 OK\r\nX-Slow: ")


def drip_a_body(connection: socket.socket) -> None:
    drip(connection, b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")


def send_without_end(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        connection.sendall(bytes(65_536))


@pytest.mark.parametrize(
    ("serve", "reason"),
    [
        (say_nothing, "sent nothing for 1 s"),
        (drip_a_head, "took more than 4 s"),
        (drip_a_body, "took more than 4 s"),
    ],
)
def test_a_server_that_takes_long_is_asked_once_a_run(
    sample: Sample,
    monkeypatch: pytest.MonkeyPatch,
    serve: Callable[[socket.socket], None],
    reason: str,
) -> None:
    sample.strip()
    options = SymbolOptions(download_timeout_s=1, download_deadline_s=4)
    context = LookupContext.of(options)
    with slow_server(monkeypatch, serve) as requests:
        assert_missing(sample, sample.module(context=context), reason)
        assert len(requests) == 1
        assert_missing(sample, sample.module(context=context), reason, "not asked again")
        assert len(requests) == 1
    assert list(kept_files(sample).iterdir()) == []


@pytest.mark.parametrize("promised", [False, True])
def test_a_download_is_bounded(
    sample: Sample, server: Server, monkeypatch: pytest.MonkeyPatch, promised: bool
) -> None:
    sample.strip()
    monkeypatch.setattr(debuginfod, "MAX_BYTES", 3 << 20)
    if promised:
        server.answers[page(sample)] = (200, b"", 4 << 20)
        assert_missing(sample, sample.module(), "the 3 MB")
    else:
        with slow_server(monkeypatch, send_without_end):
            assert_missing(sample, sample.module(), "the 3 MB")
    assert list(kept_files(sample).iterdir()) == []


def test_what_a_killed_process_left_is_removed(sample: Sample, server: Server) -> None:
    sample.strip()
    offer(server, sample)
    kept = kept_files(sample)
    kept.mkdir(parents=True, mode=0o700)
    for name, age_s in ((".download-old", 7200), (".download-new", 0)):
        (kept / name).touch()
        os.utime(kept / name, (time.time() - age_s,) * 2)
    assert_found(sample, sample.module())
    assert {file.name for file in kept.iterdir()} == {".download-new", "debuginfo"}


def test_names_arrive_later(
    sample: Sample, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looked up in the background: no report waits for a server, and all names appear later."""
    sample.strip()
    may_answer = threading.Event()

    def answer(connection: socket.socket) -> None:
        may_answer.wait()
        body = sample.debug.read_bytes()
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    lookups = Lookups()
    module = sample.module(context=LookupContext.of(SymbolOptions(), lookups))
    with slow_server(monkeypatch, answer):
        frame = sample.frame(module)
        assert (frame.function, frame.source) == (None, None)
        assert frame.unknown and "being looked up" in frame.unknown
        lookups.wait(is_last=False)
        assert lookups.awaited() == ("the debug file of libsample.so from 127.0.0.1",)
        assert sample.frame(module) == frame
        before = lookups.arrived
        may_answer.set()
        until(lambda: lookups.arrived != before and not lookups.awaited())
    assert_found(sample, module)


def test_giving_up_leaves_nothing(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    sample.strip()
    lookups = Lookups()
    module = sample.module(context=LookupContext.of(SymbolOptions(), lookups))
    others = children_of(os.getpid())  # the demangler's, which other tests have started
    with slow_server(monkeypatch, drip_a_body) as requests:
        sample.frame(module)
        until(lambda: bool(requests) and bool(list(kept_files(sample).iterdir())))
        children = children_of(os.getpid()) - others
        assert children
        lookups.close()
        until(lambda: not children & children_of(os.getpid()))
        until(lambda: not list(kept_files(sample).iterdir()))


def until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def children_of(pid: int) -> set[str]:
    files = Path(f"/proc/{pid}/task").glob("*/children")
    return {word for file in files for word in file.read_text().split()}


def test_a_signal_ends_a_wait(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the wait of a last report, which would last as long as the server is silent."""
    sample.strip()
    ends_s: list[float] = []
    interrupted = False
    lookups = Lookups(lambda: interrupted)
    module = sample.module(context=LookupContext.of(SymbolOptions(download_timeout_s=600), lookups))
    with slow_server(monkeypatch, say_nothing):
        sample.frame(module)
        lookups.wait(is_last=False)

        def wait() -> None:
            monkeypatch.setattr("leaktrace.symbols.lookups._LAST_S", 600.0)
            lookups.wait(is_last=True)
            ends_s.append(time.monotonic())

        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.2)
        assert not ends_s
        interrupted = True
        thread.join(DEADLINE_S)
        assert ends_s
        lookups.wait(is_last=True)  # after a signal: not for long
        lookups.close()
