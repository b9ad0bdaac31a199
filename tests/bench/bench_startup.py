"""How long a user waits until the probes are attached, and for a first short run.

    python tests/bench/bench_startup.py

Caches are warm: each command has been run once before. Not pinned: leaktrace compiles its program
on another core while it looks for symbols.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from benchmarking.processes import processor_s
from benchmarking.results import Results, interleaved, require_root
from benchmarking.tracers import memleak_command, memleak_environment
from harness.target import Target
from harness.tracer import COMMAND, NEVER, Tracer, tracer_environment

ROUNDS = 5
LIBRARIES = 20
# Of many sizes, and installed almost everywhere. With libc and similar ones, LIBRARIES are loaded.
CANDIDATES = (  # separated by blanks
    "libm.so.6 libz.so.1 libstdc++.so.6 libgcc_s.so.1 libcrypto.so.3 libssl.so.3 libncursesw.so.6 "
    "libtinfo.so.6 liblzma.so.5 libbz2.so.1.0 libexpat.so.1 libsqlite3.so.0 libffi.so.8 "
    "libelf.so.1 libdw.so.1 libbpf.so.1 libzstd.so.1 libgmp.so.10 libmpfr.so.6 libreadline.so.8 "
    "libcurl.so.4 libpcre2-8.so.0 libmount.so.1 libblkid.so.1 libuuid.so.1 libsystemd.so.0 "
    "libcap.so.2 libgcrypt.so.20 libgpg-error.so.0 liblz4.so.1 libkrb5.so.3 libcrypt.so.1"
)
TARGET = """
import ctypes, sys
def mapped():
    lines = open("/proc/self/maps").read().splitlines()
    return {line.split()[-1] for line in lines if " r-xp " in line and ".so" in line}
for name in sys.argv[2].split():
    if len(mapped()) >= int(sys.argv[1]):
        break
    try:
        ctypes.CDLL(name)
    except OSError:
        pass
print("ready", flush=True)
sys.stdin.read()
"""


def mapped_libraries(pid: int) -> int:
    """How many shared objects a process has mapped with code."""
    return len(
        {
            line.split()[-1]
            for line in Path(f"/proc/{pid}/maps").read_text().splitlines()
            if " r-xp " in line and ".so" in line
        }
    )


def armed_s(pid: int, processor_samples_s: list[float]) -> float:
    """Seconds from the start of leaktrace until it says that the probes are attached.

    Adds the processor seconds of it and its compiler until then to the samples.
    """
    begin = time.perf_counter()
    with Tracer("-p", str(pid), NEVER) as tracer:
        tracer.await_armed()
        duration = time.perf_counter() - begin
        processor_samples_s.append(processor_s(tracer.pid, with_children=True))
        tracer.stop()
    return duration


def wall_s(command: Callable[[], list[str]], environment: dict[str, str]) -> float:
    words = command()  # raises UnavailableError
    begin = time.perf_counter()
    subprocess.run(words, check=True, env=environment, capture_output=True, timeout=60)
    return time.perf_counter() - begin


def main() -> None:
    require_root()
    results = Results("startup")
    arguments = ["/usr/bin/python3", "-c", TARGET, str(LIBRARIES), CANDIDATES]
    with Target(arguments) as target:
        target.await_ready()
        pid = target.pid
        results.title(f"a process with {mapped_libraries(pid)} shared libraries, s")
        short = ("-p", str(pid), "1", "1")

        def leaktrace_run() -> float:
            return wall_s(lambda: [*COMMAND, *short], tracer_environment())

        def memleak_run() -> float:
            return wall_s(lambda: memleak_command(*short), memleak_environment())

        processor_samples_s: list[float] = []
        leaktrace_run()
        found = interleaved(
            ROUNDS,
            {
                "leaktrace: start until the probes are on": lambda: armed_s(
                    pid, processor_samples_s
                ),
                "leaktrace -p PID 1 1, wall time": leaktrace_run,
            },
            results,
        )
        bars = (0.8, 1.6)
        for (name, samples), bar in zip(found.items(), bars, strict=True):
            results.add(name, samples, "s", bar)
        results.add("leaktrace: processor time until the probes are on", processor_samples_s, "s")
        for name, samples in interleaved(
            2, {"memleak -p PID 1 1, wall time": memleak_run}, results
        ).items():
            results.add(name, samples, "s")
    results.save()


if __name__ == "__main__":
    main()
