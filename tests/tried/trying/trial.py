"""Tries one program: installs nothing, starts it, traces it, and ends what it started."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trying.programs import Origin, Program, Traced
from trying.results import Trial, from_reports

# Attaching takes seconds, and much longer on a busy machine.
ATTACH_S = 120
LOAD_S = 60
START_S = 30
END_S = 60
_TRACING = b"leaktrace: tracing "


class TrialError(Exception):
    """The program, its load or leaktrace did not do what it should. The text goes into the page."""


@dataclass(frozen=True)
class Places:
    leaktrace: Path
    root: Path
    packages: Path
    """Where packages of PyPI and npm are installed."""

    def names(self, folder: Path, port: int) -> Mapping[str, str]:
        return {
            "folder": str(folder),
            "port": str(port),
            "root": str(self.root),
            "venv": str(self.packages / "venv"),
            "npm": str(self.packages),
        }


def try_program(program: Program, places: Places) -> Trial:
    """Trace the program under its load. A failure is a result."""
    with tempfile.TemporaryDirectory(prefix="tried-") as name:
        folder = Path(name)
        # Servers that give up root look in here, too.
        folder.chmod(0o755)
        names = places.names(folder, _unused_port())
        trial = untried(program, places)
        missing = [need for need in program.needs if not _is_there(need.format_map(names))]
        if missing:
            why = f"not installed ({', '.join(_basename(need) for need in missing)})"
            return failed(trial, f"{why}: {install_hint(program)}")
        try:
            return from_reports(trial, _reports(program, places, folder, names))
        except TrialError as error:
            return failed(trial, str(error).replace(f"{places.root}/", ""))
        finally:
            _keep(program, places, folder)


def untried(program: Program, places: Places) -> Trial:
    version = _version(program, places) or "?"
    return Trial(
        program.name, source(program), version, " ".join((program.traced.value, *program.options))
    )


def source(program: Program) -> str:
    return f"{program.origin.value} {program.package}"


def install_hint(program: Program) -> str:
    also = " ".join(program.also)
    if program.origin in (Origin.PYPI, Origin.NPM):
        return "try_programs.py --install" + (f", apt-get install {also}" if also else "")
    return f"apt-get install {program.package} {also}".rstrip()


def failed(trial: Trial, why: str) -> Trial:
    return Trial(trial.name, trial.source, trial.version, trial.traced, failure=why)


def _basename(need: str) -> str:
    return need.format_map(dict.fromkeys(("venv", "npm"), "")).lstrip("/")


def _is_there(need: str) -> bool:
    return Path(need).exists() if need.startswith("/") else shutil.which(need) is not None


def _version(program: Program, places: Places) -> str | None:
    """The version of the package, as its package manager has it."""
    if program.origin is Origin.PYPI:
        pattern = f"venv/lib/python*/site-packages/{program.package}-*.dist-info"
        for folder in places.packages.glob(pattern):
            return folder.name.removesuffix(".dist-info").rpartition("-")[2]
        return None
    if program.origin is Origin.NPM:
        file = places.packages / "node_modules" / program.package / "package.json"
        return str(json.loads(file.read_text())["version"]) if file.exists() else None
    if shutil.which("dpkg-query") is None:
        return None
    found = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Version}", program.package],
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout or None


def _reports(
    program: Program, places: Places, folder: Path, names: Mapping[str, str]
) -> Sequence[Mapping[str, Any]]:
    for name, text in program.files:
        file = folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text.format_map(names), encoding="utf-8")
    for command in program.prepare:
        _run_to_end(["sh", "-c", command.format_map(names)], folder)
    with contextlib.ExitStack() as stack:
        pid = 0
        if program.server:
            server = program.server.format_map(names)
            pid = stack.enter_context(_server(server, folder, int(names["port"])))
        load = program.load.format_map(names)
        if program.traced is Traced.COMMAND:
            words = shlex.split(load.removeprefix("exec "))
            return _traced(places, program.options, folder, command=words)
        if program.traced is Traced.NAME:
            options = ["--name", f"^{shlex.split(program.server)[1].rpartition('/')[2]}$"]
        else:
            pids = [pid, *_descendants(pid)]
            options = ["-p", ",".join(map(str, pids)), "--follow"]
        return _traced(places, [*options, *program.options], folder, load=load)


def _traced(
    places: Places,
    options: Sequence[str],
    folder: Path,
    *,
    command: Sequence[str] = (),
    load: str = "",
) -> Sequence[Mapping[str, Any]]:
    """The reports about a command, or about a running server under a load."""
    output, messages = folder / "reports.json", folder / "messages"
    argv = [str(places.leaktrace), *options, "-f", "json", "-o", "0", "--output", str(output)]
    argv += ["--exit-code", "child", str(LOAD_S), "--", *command] if command else ["1"]
    with messages.open("wb") as errors:
        tracer = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            cwd=folder,
            start_new_session=True,
        )
    try:
        _await_tracing(tracer, messages)
        if load:
            _run_to_end(["sh", "-c", load], folder)
        else:
            with contextlib.suppress(subprocess.TimeoutExpired):
                tracer.wait(LOAD_S)
        if tracer.poll() is None:
            tracer.send_signal(signal.SIGTERM)  # SIGINT may be ignored, as in the background
        status = tracer.wait(END_S)
    except subprocess.TimeoutExpired:
        raise TrialError("leaktrace did not end") from None
    finally:
        if tracer.poll() is None:
            tracer.terminate()
            tracer.wait(END_S)
    if status != 0:
        raise TrialError(f"status {status}: {_message(messages)}")
    reports = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    if not reports or not reports[-1]["final"]:
        raise TrialError("no final report")
    if command and reports[-1]["reason"] != "the target has ended":
        raise TrialError(f"did not end within {LOAD_S} s")
    return reports


def _keep(program: Program, places: Places, folder: Path) -> None:
    """What leaktrace wrote, to look at what was not expected."""
    kept = (
        places.packages / "reports" / re.sub(r"\W+", "-", f"{program.origin.name} {program.name}")
    )
    kept.mkdir(parents=True, exist_ok=True)
    for name in ("reports.json", "messages"):
        if (folder / name).exists():
            shutil.copy(folder / name, kept)


def _await_tracing(tracer: subprocess.Popen[bytes], messages: Path) -> None:
    deadline = time.monotonic() + ATTACH_S
    while _TRACING not in messages.read_bytes() and tracer.poll() is None:
        if time.monotonic() > deadline:
            raise TrialError(f"tracing did not begin: {_message(messages)}")
        time.sleep(0.05)


def _message(messages: Path) -> str:
    """leaktrace's last message, with its hint."""
    lines = messages.read_text(errors="replace").strip().splitlines()
    first = max((i for i, line in enumerate(lines) if line.startswith("leaktrace")), default=0)
    return "; ".join(line.strip() for line in lines[first:]) or "no message"


def _last_line(file: Path) -> str:
    lines = file.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no message"


def _run_to_end(argv: Sequence[str], folder: Path) -> None:
    log = folder / "load.log"
    with log.open("wb") as output:
        try:
            status = subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=folder,
                check=False,
                timeout=LOAD_S,
            ).returncode
        except subprocess.TimeoutExpired:
            raise TrialError(f"took more than {LOAD_S} s: {argv[-1]}") from None
    if status != 0:
        raise TrialError(f"status {status} of {argv[-1]}: {_last_line(log)}")


@contextlib.contextmanager
def _server(command: str, folder: Path, port: int) -> Generator[int, None, None]:
    """A server that listens on the port. Gives its process ID."""
    log = folder / "server.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            ["sh", "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=folder,
            start_new_session=True,  # apache2 ends its process group
        )
    try:
        deadline = time.monotonic() + START_S
        while not _listens(port):
            if server.poll() is not None or time.monotonic() > deadline:
                raise TrialError(f"the server does not start: {_last_line(log)}")
            time.sleep(0.1)
        time.sleep(1)  # until the workers of a server run that listens before it starts them
        yield server.pid
    finally:
        children = _descendants(server.pid)
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            for pid in (server.pid, *children):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            server.wait()


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        return True
    return False


def _unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _descendants(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, task.read_text().split()):
                found += [child, *_descendants(child)]
    return found
