"""Reports in files by time, on a small disk, and to a reader that stops; a report on request."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import IO

import pytest
from harness.compiling import Compiler
from harness.lines import DEADLINE_S
from harness.target import Target
from harness.tracer import COMMAND, NEVER, Tracer, run_leaktrace, tracer_environment

pytestmark = pytest.mark.usefixtures("require_bpf")


def test_a_full_disk_is_told_and_tracing_goes_on(compiled: Compiler, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "leaktrace", str(disk)], check=True)
    try:
        with Target([compiled("commands.c")]) as target:
            target.await_ready()
            arguments = ("-p", str(target.pid), "-f", "json", "-o", "0", "--keep", "2")
            pattern = disk / "leak-%H%M%S%f.json"
            with Tracer(*arguments, "--output", pattern, NEVER) as tracer:
                tracer.await_armed()
                target.do("malloc 70 30")
                for count in (1, 2, 3):
                    tracer.process.send_signal(signal.SIGUSR1)
                    await_files(disk, min(count, 2), count)
                filler = disk / "filler"
                filler.write_bytes(b"")
                fill(filler)
                tracer.process.send_signal(signal.SIGUSR1)
                tracer.stderr.until(lambda line: "No space left on device" in line)
                filler.unlink()
                outcome = tracer.stop()
            assert target.end() == 0
        assert outcome.exit_code == 0, outcome.stderr
        assert "can be written again" in outcome.stderr
        kept = [json.loads(path.read_text()) for path in sorted(disk.iterdir())]
        assert [report["number"] for report in kept] == [3, 5]
        assert kept[-1]["final"]
        assert kept[-1]["losses"]["unwritten_reports"] == 1
        assert kept[-1]["outstanding"] == {"bytes": 2100, "count": 70}
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def await_told(stderr: IO[bytes], words: bytes) -> None:
    line = b""
    while words not in line:
        line = stderr.readline()
        assert line, words


def await_files(folder: Path, count: int, number: int) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while True:
        files = sorted(folder.glob("*.json"))
        if len(files) == count and json.loads(files[-1].read_text())["number"] == number:
            return
        assert time.monotonic() < deadline, files


def fill(path: Path) -> None:
    with pytest.raises(OSError, match="No space left"), path.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)


def test_a_stopped_reader_costs_reports_but_no_calls(compiled: Compiler) -> None:
    """The reader is a process of its own. It is stopped, and reads on later."""
    with Target([compiled("commands.c")]) as target:
        target.await_ready()
        arguments = ["-p", str(target.pid), "-f", "json", "-a", "-o", "0", "0.05"]
        tracer = subprocess.Popen(
            [*COMMAND, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=tracer_environment(),
        )
        assert tracer.stdout is not None
        assert tracer.stderr is not None
        reader = subprocess.Popen(["cat"], stdin=tracer.stdout, stdout=subprocess.PIPE)
        tracer.stdout.close()
        try:
            assert reader.stdout is not None
            reader.send_signal(signal.SIGSTOP)
            await_told(tracer.stderr, b"tracing pid")
            target.do("malloc 5000 30")  # a report of half a megabyte
            await_told(tracer.stderr, b"has stopped")
            target.do("malloc 70 30")
            reader.send_signal(signal.SIGCONT)
            lines = iter(reader.stdout.readline, b"")
            for line in lines:
                report = json.loads(line)
                if report["losses"]["unread_reports"] and report["outstanding"]["count"] == 5070:
                    break
            else:
                pytest.fail("no such report arrived")
            assert report["losses"]["allocations"] == 0
            # With a stopped reader, Ctrl-C ends the run nevertheless.
            reader.send_signal(signal.SIGSTOP)
            tracer.send_signal(signal.SIGINT)
            tracer.stderr.read()
            assert tracer.wait(DEADLINE_S) in {0, 1}
        finally:
            for one in (tracer, reader):
                one.kill()
                one.wait()
        assert target.end() == 0


def test_a_recording_with_gaps_is_no_success(compiled: Compiler, tmp_path: Path) -> None:
    with Target([compiled("commands.c")]) as target:
        target.await_ready()
        outcome = run_leaktrace(
            *("-p", str(target.pid), "--record", tmp_path / "run", "0.2", "2"),
            prefix=("bash", "-c", 'ulimit -f 1; exec "$@"', "bash"),  # KiB: its first line fits
        )
        assert target.end() == 0
    assert outcome.exit_code == 1, outcome.stderr
    assert "reports are missing" in outcome.stderr
    assert outcome.stdout.count("\noutstanding ") == 2
