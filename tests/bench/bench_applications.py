"""The cost of tracing for whole programs: a server under load, an interpreter, a compiler.

    python tests/bench/bench_applications.py

Each program has its own core. The figure is the processor time of its work, which other load on the
machine affects least. A server's requests per second are shown next to it.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path

from benchmarking.processes import BUILD, first_thread_ns, pin, reserve_core
from benchmarking.results import Results, interleaved, require_root
from benchmarking.tracers import (
    Attach,
    UnavailableError,
    has_option,
    leaktrace,
    memleak,
    untraced,
)
from harness.target import Target

ROUNDS = 3
REQUESTS = 20_000

PYTHON_WORK = """
import json
print("ready", flush=True)
input()
text = json.dumps([{"name": "item %d" % i, "value": "x" * (i % 700)} for i in range(2000)])
for _ in range(60):
    json.loads(text)
"""

CPP_SOURCE = """
#include <map>
#include <string>
#include <vector>
int main() {
    std::map<std::string, std::vector<int>> words;
    words["one"].push_back(1);
    return static_cast<int>(words.size());
}
"""


def work_s(argv: Sequence[str], attach: Attach, core: int) -> float:
    """Processor seconds of a program from its start to its end. It says "ready", and waits for a
    line while the probes are attached."""
    target = Target(argv)
    with target:
        target.await_ready()
        pin(target.pid, core)
        with attach(target.pid):
            target.send()
            # Popen's own wait would throw the figures away.
            _, status, usage = os.wait4(target.pid, 0)
            target.process.returncode = os.waitstatus_to_exitcode(status)
    assert target.process.returncode == 0, f"{argv[0]} failed"
    return usage.ru_utime + usage.ru_stime


def compare(
    name: str, argv: Sequence[str], ways: Mapping[str, Attach], core: int, results: Results
) -> None:
    results.title(f"{name}, processor time, s")

    def measure(attach: Attach) -> Callable[[], float]:
        return lambda: work_s(argv, attach, core)

    found = interleaved(ROUNDS, {way: measure(attach) for way, attach in ways.items()}, results)
    show(found, "s", {}, results)


def show(
    found: Mapping[str, Sequence[float]], unit: str, bars: Mapping[str, float], results: Results
) -> None:
    """The figures, and the ratio of each to the untraced program's (at most its bar)."""
    for way, samples in found.items():
        results.add(way, samples, unit)
    for way, samples in found.items():
        if way != "untraced":
            results.add_ratio(f"{way} / untraced", samples, found["untraced"], bars.get(way))
    if "memleak" in found and "leaktrace" in found:
        results.add_ratio("leaktrace / memleak", found["leaktrace"], found["memleak"])


def compiler_command(folder: Path) -> list[str]:
    """g++'s compiler proper: g++ itself only starts it, and leaktrace follows no children."""
    source = folder / "small.cpp"
    source.write_text(CPP_SOURCE)
    listed = subprocess.run(
        ["g++", "-###", "-O1", "-S", str(source), "-o", "/dev/null"],
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    line = next(line for line in listed.splitlines() if "cc1plus" in line)
    # A shell that waits has the same libc, on which the probes stay when it executes the compiler.
    return ["/bin/sh", "-c", f"echo ready; read line; exec {line.strip()} 2>/dev/null"]


@contextlib.contextmanager
def redis(core: int) -> Generator[tuple[int, int], None, None]:
    """A redis-server on an unused port. Gives its pid and the port."""
    program = shutil.which("redis-server")
    if program is None or shutil.which("redis-benchmark") is None:
        raise UnavailableError("redis is not installed (Debian, Ubuntu: redis-server)")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        server = subprocess.Popen(
            [program, "--port", str(port), "--save", "", "--appendonly", "no", "--dir", folder],
            stdout=subprocess.DEVNULL,
        )
        try:
            pin(server.pid, core)
            await_server(port)
            yield server.pid, port
        finally:
            server.kill()
            server.wait()


def await_server(port: int) -> None:
    """redis-benchmark would wait forever if the server doesn't listen yet."""
    deadline = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise UnavailableError("redis-server does not start") from None
            time.sleep(0.05)


def load(port: int, requests: int) -> float:
    """Set keys and push to a list, values of 100 bytes. Returns requests per second."""
    options = f"-p {port} -n {requests} -c 20 -d 100 -r 10000 -t set,lpush -q --csv"
    output = subprocess.run(
        ["redis-benchmark", *options.split()],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    ).stdout
    rates = [float(rate) for rate in re.findall(r'^"(?:SET|LPUSH)[^"]*","([0-9.]+)"', output, re.M)]
    return len(rates) / sum(1 / rate for rate in rates)


def compare_redis(ways: Mapping[str, Attach], core: int, results: Results) -> None:
    results.title("redis-server (jemalloc), SET and LPUSH of 100 bytes, microseconds of processor")
    rates: dict[str, list[float]] = {}
    with redis(core) as (pid, port):

        def measure(way: str, attach: Attach) -> Callable[[], float]:
            def under_load() -> float:
                with attach(pid):
                    load(port, 1000)
                    before = first_thread_ns(pid)
                    rates.setdefault(way, []).append(load(port, REQUESTS))
                    return (first_thread_ns(pid) - before) / 1e3 / (2 * REQUESTS)

            return under_load

        found = interleaved(
            ROUNDS, {way: measure(way, attach) for way, attach in ways.items()}, results
        )
    show(found, "us", {"leaktrace --faults": 1.03}, results)
    for way in found:
        results.add(f"{way}: requests", rates[way], "a second")


def main() -> None:
    require_root()
    results = Results("applications")
    core = reserve_core()
    ways: dict[str, Attach] = {"untraced": untraced, "leaktrace": leaktrace()}
    if has_option("--faults"):
        ways["leaktrace --faults"] = leaktrace("--faults")
    with_memleak = {**ways, "memleak": memleak()}
    BUILD.mkdir(parents=True, exist_ok=True)
    try:
        compare_redis({**ways, "memleak": memleak("-O", "jemalloc")}, core, results)
    except UnavailableError as error:
        results.remark(str(error))
    compare("python3, JSON", ["/usr/bin/python3", "-c", PYTHON_WORK], with_memleak, core, results)
    if shutil.which("g++"):
        compare("g++, a small file", compiler_command(BUILD), with_memleak, core, results)
    else:
        results.remark("g++ is not installed")
    results.save()


if __name__ == "__main__":
    main()
