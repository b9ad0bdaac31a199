"""A slow debuginfod server: reports and signals don't wait for it."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from harness.compiling import Compiler
from harness.lines import DEADLINE_S
from harness.reports import Report, Total
from harness.target import Target
from harness.tracer import Tracer
from harness.wording import names

pytestmark = pytest.mark.usefixtures("require_bpf")

FUNCTION = "scenario_command_malloc"
PROMPT_S = 8.0  # generously: it is less than half a second; a server may say nothing for 15


@pytest.fixture(scope="module")
def stripped(
    compiled: Compiler,
    tmp_path_factory: pytest.TempPathFactory,
    require_tool: Callable[[str], str],
) -> tuple[Path, bytes]:
    """A program without symbols, and its debug file."""
    folder = tmp_path_factory.mktemp("stripped")
    objcopy = require_tool("objcopy")
    program, debug = folder / "program", folder / "debug"
    subprocess.run([objcopy, "--strip-all", compiled("commands.c"), program], check=True)
    subprocess.run([objcopy, "--only-keep-debug", compiled("commands.c"), debug], check=True)
    return program, debug.read_bytes()


class SlowServer:
    """Answers no request until it is released; `asked` counts the requests by build ID."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._may_answer = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.asked: list[bytes] = []
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def answer(self) -> None:
        self._may_answer.set()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)

    def _listen(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            self.asked.append(connection.recv(65_536).split()[1])
            self._may_answer.wait()
            head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(self._answer)
            connection.sendall(head + self._answer)


@contextmanager
def traced(
    stripped: tuple[Path, bytes], cache: Path, *options: str
) -> Iterator[tuple[Target, Tracer, SlowServer]]:
    program, debug = stripped
    server = SlowServer(debug)
    environment = {"DEBUGINFOD_URLS": server.url, "XDG_CACHE_HOME": str(cache)}
    try:
        with Target([program]) as target:
            target.await_ready()
            arguments = ["-p", str(target.pid), "--format", "json", "-o", "0", *options]
            with Tracer(*arguments, env=environment) as tracer:
                tracer.await_armed()
                yield target, tracer, server
            assert target.end() == 0
    finally:
        server.close()


def functions(report: Report) -> set[str | None]:
    return {function for site in report.sites for function in site.functions}


def notes(report: Report) -> str:
    return " ".join(report.raw["target"]["notes"])


def test_later_reports_have_the_names(stripped: tuple[Path, bytes], tmp_path: Path) -> None:
    with traced(stripped, tmp_path, "0.2") as (target, tracer, server):
        target.do("malloc 10 100")
        for _ in range(3):
            while (report := tracer.next_report()).outstanding != Total(1000, 10):
                pass
            assert FUNCTION not in functions(report)
            assert names(notes(report), "debug file", "program", "127.0.0.1", "later")
        (before,) = [site.raw["id"] for site in report.sites]
        server.answer()
        while FUNCTION not in functions(report := tracer.next_report()):
            pass
        while names(notes(report := tracer.next_report()), "lines"):
            pass
        (site,) = report.sites_under(FUNCTION)
        assert site.raw["id"] == before
        assert site.frames[0].line is not None
        assert tracer.stop().exit_code == 0
        assert server.asked[0].startswith(b"/buildid/")
        assert len(set(server.asked)) == len(server.asked)


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_not_held_back(
    by: signal.Signals, stripped: tuple[Path, bytes], tmp_path: Path
) -> None:
    """Nor is the final report, which says what is missing. No partial file is kept."""
    with traced(stripped, tmp_path, "0.2") as (target, tracer, server):
        target.do("malloc 10 100")
        while not server.asked:
            tracer.next_report()
        sent_s = time.monotonic()
        outcome = tracer.stop(by)
        assert time.monotonic() - sent_s < PROMPT_S
    assert outcome.exit_code == 0, outcome.stderr
    last = outcome.reports[-1]
    assert last.final
    assert last.outstanding == Total(1000, 10)
    assert names(notes(last), "no time", "debug file", "program", "127.0.0.1")
    assert not list(tmp_path.rglob("debuginfod/*/*"))


def test_calls_are_shown_meanwhile(stripped: tuple[Path, bytes], tmp_path: Path) -> None:
    with traced(stripped, tmp_path, "-t", "3600") as (target, tracer, server):
        target.do("malloc 3 54321")
        shown = [json.loads(tracer.stdout.next() or "") for _ in range(3)]
        assert [call["bytes"] for call in shown] == [54321] * 3
        server.answer()
        while True:  # each with the names that are known by then
            target.do("malloc 1 12345")
            call = json.loads(tracer.stdout.next() or "")
            assert call["bytes"] == 12345
            if FUNCTION in {frame["function"] for frame in call["frames"]}:
                break
        assert tracer.stop().exit_code == 0


def test_no_child_outlives_a_killed_leaktrace(stripped: tuple[Path, bytes], tmp_path: Path) -> None:
    with traced(stripped, tmp_path, "0.2") as (target, tracer, server):
        target.do("malloc 10 100")
        while not server.asked:
            tracer.next_report()
        files = Path(f"/proc/{tracer.pid}/task").glob("*/children")
        children = [Path(f"/proc/{word}") for file in files for word in file.read_text().split()]
        assert any(b"download" in (child / "cmdline").read_bytes() for child in children)
        tracer.process.kill()
        deadline_s = time.monotonic() + DEADLINE_S
        while any(child.exists() for child in children):
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
