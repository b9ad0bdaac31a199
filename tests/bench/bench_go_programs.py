"""The cost of `leaktrace go` for Go programs of Debian under load, at one look per second.

    python tests/bench/bench_go_programs.py [PROGRAM...]

Each program serves pages to this script on the loopback interface, at a fixed rate, on a core of
its own. Spans with and without looks alternate. The figure is the processor time of all threads of
the program per request. Spans without looks are measured twice: what those differ by is noise.
Programs that are not installed are left out.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarking.processes import reserve_core
from benchmarking.results import Results, interleaved, require_root
from harness.tracer import Tracer

ROUNDS = 8
SPAN_S = 4.0
WITH, WITHOUT, AGAIN = "leaktrace go, 1 look per second", "untraced", "untraced, again"
AT_MOST = 1.05


@dataclass(frozen=True)
class Server:
    """A program that serves pages. `{port}` and `{folder}` stand for what it is given."""

    package: str
    program: str
    arguments: tuple[str, ...]
    page: str
    requests_per_s: int
    functions: str  # pattern of functions of its own, or of its libraries, that wait


SERVERS = (
    Server(
        "prometheus-node-exporter",
        "prometheus-node-exporter",
        ("--web.listen-address=127.0.0.1:{port}", "--log.level=error"),
        "/metrics",
        15,
        r"net/http|main\.main",
    ),
    Server(
        "caddy",
        "caddy",
        ("file-server", "--listen", "127.0.0.1:{port}", "--root", "{folder}"),
        "/page",
        400,
        r"net/http|caddy",
    ),
    Server(
        "prometheus",
        "prometheus",
        (
            "--web.listen-address=127.0.0.1:{port}",
            "--storage.tsdb.path={folder}/data",
            "--config.file={folder}/prometheus.yml",
            "--log.level=error",
        ),
        "/metrics",
        50,
        r"net/http|prometheus",
    ),
)


def processor_ns(pid: int) -> int:
    """Of all threads so far, to the nanosecond. Those of Go hardly ever end."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads)


@contextlib.contextmanager
def serving(server: Server, core: int) -> Generator[tuple[int, int], None, None]:
    """Gives the pid and the port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "page").write_bytes(bytes(range(256)) * 64)
        Path(folder, "prometheus.yml").write_text("global: {}\n")
        words = [one.format(port=port, folder=folder) for one in server.arguments]
        command = ["taskset", "-c", str(core), server.program, *words]
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={"HOME": folder}
        ) as process:
            try:
                await_port(port)
                yield process.pid, port
                assert process.poll() is None, f"{server.program} has ended"
            finally:
                process.kill()


def await_port(port: int) -> None:
    deadline_s = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
            return
        except OSError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.05)


def load(server: Server, port: int) -> int:
    """Ask for the page for a span. Returns how often."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    began_s, count = time.monotonic(), 0
    while (now_s := time.monotonic()) < began_s + SPAN_S:
        due_s = began_s + count / server.requests_per_s
        if due_s > now_s:
            time.sleep(due_s - now_s)
        connection.request("GET", server.page)
        answer = connection.getresponse()
        assert answer.status == 200, answer.status
        answer.read()
        count += 1
    connection.close()
    return count


def per_request_us(server: Server, pid: int, port: int) -> float:
    before = processor_ns(pid)
    count = load(server, port)
    return (processor_ns(pid) - before) / 1e3 / count


def compare(server: Server, core: int, results: Results) -> None:
    results.title(f"{server.package} ({version_of(server)}), processor time per request")
    reports: list[dict[str, Any]] = []
    with serving(server, core) as (pid, port):

        def traced() -> float:
            with Tracer("go", "-p", str(pid), "1", "60", "-f", "json") as tracer:
                tracer.stderr.until(lambda line: "looked at the goroutines" in line)
                taken_us = per_request_us(server, pid, port)
                outcome = tracer.stop()
            assert outcome.exit_code == 0, outcome.stderr
            reports.extend(json.loads(line) for line in outcome.stdout.splitlines())
            return taken_us

        ways: dict[str, Callable[[], float]] = {
            WITHOUT: lambda: per_request_us(server, pid, port),
            WITH: traced,
            AGAIN: lambda: per_request_us(server, pid, port),
        }
        load(server, port)
        found = interleaved(ROUNDS, ways, results)
    for way, samples in found.items():
        results.add(way, samples, "us")
    results.add_ratio(f"{AGAIN} / {WITHOUT}: noise", found[AGAIN], found[WITHOUT])
    results.add_ratio(f"{WITH} / {WITHOUT}", found[WITH], found[WITHOUT], AT_MOST)
    check(server, reports, results)


def check(server: Server, reports: list[dict[str, Any]], results: Results) -> None:
    """The reports are about this program, and have names."""
    assert len(reports) >= ROUNDS * int(SPAN_S)
    groups = [group for report in reports for group in report["goroutines"]]
    named = [group for group in groups if all(frame.get("function") for frame in group["frames"])]
    own = {
        frame["function"]
        for group in groups
        for frame in group["frames"]
        if re.search(server.functions, frame.get("function") or "")
    }
    assert own, "no function of its own"
    leaking = sum(report["verdict"] == "leaking" for report in reports)
    look_ms = [
        1e3 * (report["look_s"] + (report["heap"] or {}).get("look_s", 0)) for report in reports
    ]
    results.add("a look", look_ms, "ms")
    results.add("goroutines", [report["goroutine_count"] for report in reports], "")
    results.add("groups whose functions all have names", 100 * len(named) / len(groups), "%")
    results.add("reports that say that goroutines leak", leaking, "")
    results.remark(
        f"Go {reports[-1]['go']['version']}; median of {len(look_ms)} looks: "
        f"{statistics.median(look_ms):.1f} ms"
    )


def version_of(server: Server) -> str:
    command = ["dpkg-query", "-W", "-f=${Version}", server.package]
    found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return found or "not of a package"


def main() -> None:
    require_root()
    results = Results("go_programs")
    core = reserve_core()
    chosen = [one for one in SERVERS if not sys.argv[1:] or one.package in sys.argv[1:]]
    for server in chosen:
        if shutil.which(server.program) is None:
            results.remark(f"{server.program} is not installed (package {server.package})")
        else:
            compare(server, core, results)
    results.save()


if __name__ == "__main__":
    main()
