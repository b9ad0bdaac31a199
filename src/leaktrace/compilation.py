"""The compiler's child process, as the tracer sees it.

The child (`leaktrace.compiler_child`) is the only place where bcc is imported. It hands the file
descriptors of maps and programs over a socket together with a small manifest, so the tracer never
maps LLVM, and a compiler that aborts is an error message instead of the end of the tracer.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from leaktrace.errors import EnvironmentUnfitError, ProgramError


class CompilerChild:
    """Started at once, so that it loads the compiler while the tracer finds out what to ask for."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket = ours
        # The child's stderr, where clang and the verifier write, goes to a file: no pipe that
        # could fill up while nobody reads. It is in memory: no directory need be writable.
        self._messages: IO[bytes] = os.fdopen(os.memfd_create("compiler messages"), "r+b")
        with theirs:
            self._child = subprocess.Popen(
                [sys.executable, "-P", "-m", "leaktrace.compiler_child", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=self._messages,
                stderr=self._messages,
                pass_fds=(theirs.fileno(),),
                env=_child_environment(),
            )

    @classmethod
    def take(cls) -> CompilerChild:
        """The one that was started early, or a new one."""
        return _WAITING.pop() if _WAITING else cls()

    def request(self, request: Mapping[str, Any]) -> None:
        """Say what to compile (`compiler_child.compile_and_load`)."""
        # The child may be dead already: finish() tells what it said.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._socket.sendall(json.dumps(request).encode())
            self._socket.shutdown(socket.SHUT_WR)

    def finish(self) -> tuple[dict[str, Any], dict[str, int]]:
        """Wait for the child. Returns its manifest, and the descriptors of maps and programs by
        name, which are the caller's from now on.

        Raises EnvironmentUnfitError when bcc is missing or loading isn't permitted, ProgramError
        when the program doesn't compile or load.
        """
        with self._socket, self._messages:
            reply, descriptors = _receive(self._socket)
            self._child.wait()
            if not reply:
                raise self._crash()
            manifest: dict[str, Any] = json.loads(reply)
            if "error" in manifest:
                for descriptor in descriptors:
                    os.close(descriptor)
                raise self._translate(manifest)
        names = [*manifest["maps"], *manifest["programs"]]
        return manifest, dict(zip(names, descriptors, strict=True))

    def abandon(self) -> None:
        """Give the compilation up."""
        self._child.kill()
        self._child.wait()
        self._socket.close()
        self._messages.close()

    def _output(self) -> str:
        self._messages.seek(0)
        return self._messages.read(1 << 20).decode(errors="replace")

    def _crash(self) -> ProgramError:
        code = self._child.returncode
        how = f"was killed by signal {-code}" if code < 0 else f"exited with code {code}"
        return ProgramError(
            f"the BPF compiler {how}: {last_line(self._output())}",
            "check the installation of bcc with `leaktrace doctor`",
        )

    def _translate(self, manifest: Mapping[str, str]) -> ProgramError | EnvironmentUnfitError:
        output = self._output()
        stage, detail = manifest["error"], manifest.get("detail", "")
        if stage == "import":
            return EnvironmentUnfitError(
                f"bcc can't be used: {detail}",
                "install the distribution's package: python3-bpfcc (Debian, Ubuntu), "
                "python3-bcc (Fedora, openSUSE), python-bcc (Arch)",
            )
        no_map = re.search(r"could not open bpf map: (\w+), error: (.*)", output)
        if no_map is not None and "not permitted" not in no_map[2]:
            return ProgramError(
                f"the kernel can't make the map {no_map[1]}: {no_map[2].strip()}",
                "lower --max-allocs and --max-stacks",
            )
        if stage == "compile":
            return ProgramError(
                f"the BPF program does not compile: {compiler_line(output) or detail}",
                "please report this with the output of `leaktrace doctor`",
            )
        if "Operation not permitted" in output or "Operation not permitted" in detail:
            return EnvironmentUnfitError(
                f"the kernel does not permit loading BPF programs ({manifest.get('name', '')})",
                "run as root: sudo leaktrace …; `leaktrace doctor` tells what is missing",
            )
        return ProgramError(
            f"the kernel refused the BPF program {manifest.get('name', '')}: "
            f"{verifier_line(output) or detail}",
            "please report this with the output of `leaktrace doctor`",
        )


_WAITING: list[CompilerChild] = []


@contextlib.contextmanager
def started_early() -> Iterator[None]:
    """A child loads the compiler on another core while this process imports what it needs itself.
    `CompilerChild.take` hands it out; it is given up if nobody took it."""
    # A user who may not even start it is told why when what tracing needs is checked.
    with contextlib.suppress(OSError):
        _WAITING.append(CompilerChild())
    try:
        yield
    finally:
        while _WAITING:
            _WAITING.pop().abandon()


def _child_environment() -> dict[str, str]:
    """The child must find this very package, however leaktrace was started."""
    parent = str(Path(__file__).resolve().parents[1])
    known = os.environ.get("PYTHONPATH")
    return os.environ | {"PYTHONPATH": f"{parent}{os.pathsep}{known}" if known else parent}


def _receive(connection: socket.socket) -> tuple[bytes, list[int]]:
    """Everything the child sends until it closes: bytes of the manifest, and descriptors.

    Nothing when it ends without having read its request.
    """
    reply = b""
    descriptors = array.array("i")
    while True:
        # SCM_RIGHTS carries up to 253 descriptors a message (unix(7)).
        try:
            data, ancillary, _, _ = connection.recvmsg(1 << 16, socket.CMSG_SPACE(253 * 4))
        except ConnectionResetError:
            break
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                descriptors.frombytes(payload[: len(payload) - len(payload) % 4])
        if not data:
            break
        reply += data
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    return reply, list(descriptors)


def compiler_line(output: str) -> str:
    """The first error that clang reports, as file:line: text."""
    match = re.search(r"^(\S+):(\d+):\d+: (?:fatal )?error: (.*)$", output, re.MULTILINE)
    return f"{match[1]}:{match[2]}: {match[3]}" if match else ""


def verifier_line(output: str) -> str:
    """What the verifier objects to: the last line before its statistics."""
    lines = [
        line
        for line in output.splitlines()
        if line.strip()
        and not re.match(r"(processed|verification time|stack depth|HINT:)", line.strip())
    ]
    return lines[-1].strip() if lines else ""


def last_line(output: str) -> str:
    lines = output.strip().splitlines()
    return lines[-1].strip() if lines else "it printed nothing"
