"""The compiler's child process, as the tracer sees it.

The child (`leaktrace.bpf.compiler_child`) is the only place where bcc is imported. It sends the
compiled program through a socket. So the tracer never maps LLVM, and a compiler that aborts causes
an error message instead of ending the tracer.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import IO, Any, ClassVar

from leaktrace.bpf.compiler_child import find_bcc
from leaktrace.errors import EnvironmentUnfitError, ProgramError, not_permitted
from leaktrace.own.children import child_environment
from leaktrace.own.shortages import advice_about_memory


class CompilerChild:
    """The child process. It loads the compiler while the tracer prepares the request."""

    _waiting: ClassVar[list[CompilerChild]] = []

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket = ours
        # The child's stderr, where clang and the verifier write, goes to a file: a pipe could fill
        # up before it is read. The file is in memory, so no directory has to be writable.
        self._messages: IO[bytes] = os.fdopen(os.memfd_create("compiler messages"), "r+b")
        with theirs:
            self._child = subprocess.Popen(
                [sys.executable, "-P", "-m", "leaktrace.bpf.compiler_child", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=self._messages,
                stderr=self._messages,
                pass_fds=(theirs.fileno(),),
                env=child_environment(),
            )

    @classmethod
    @contextlib.contextmanager
    def started_early(cls) -> Iterator[None]:
        """Start a child that loads the compiler meanwhile. `take` returns it; at the end it is
        abandoned if it was not taken."""
        # If it can't be started, the later check of what tracing needs reports why.
        with contextlib.suppress(OSError):
            cls._waiting.append(cls())
        try:
            yield
        finally:
            while cls._waiting:
                cls._waiting.pop().abandon()

    @classmethod
    def take(cls) -> CompilerChild:
        """The child that was started early, or a new one."""
        return cls._waiting.pop() if cls._waiting else cls()

    def request(self, request: Mapping[str, Any]) -> None:
        """Send what to compile (`compiler_child.compile_image`)."""
        # The child may have ended: finish() reports its messages.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._socket.sendall(json.dumps(request).encode())
            self._socket.shutdown(socket.SHUT_WR)

    def finish(self) -> bytes:
        """Wait for the child. Returns the compiled program (`image.Image.from_json`).

        Raises EnvironmentUnfitError when bcc is missing or lacks permission, ProgramError when the
        program doesn't compile.
        """
        with self._socket, self._messages:
            reply = _receive(self._socket)
            self._child.wait()
            if not reply:
                raise self._crash()
            if reply.startswith(b'{"error"'):
                raise self._translate(json.loads(reply))
        return reply

    def abandon(self) -> None:
        """Abandon the compilation."""
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
            advice_about_memory() or "check the installation of bcc with `leaktrace doctor`",
        )

    def _translate(self, manifest: Mapping[str, str]) -> ProgramError | EnvironmentUnfitError:
        output = self._output()
        stage, detail = manifest["error"], manifest.get("detail", "")
        if stage == "import":
            return EnvironmentUnfitError(
                f"bcc can't be used: {detail}",
                (find_bcc() and advice_about_memory())
                or "install the distribution's package: python3-bpfcc (Debian, Ubuntu), "
                "python3-bcc (Fedora, openSUSE), python-bcc (Arch)",
            )
        if "could not open bpf map" in output and "Operation not permitted" in output:
            return not_permitted()
        return ProgramError(
            f"the BPF program does not compile: {compiler_line(output) or detail}",
            "please report this with the output of `leaktrace doctor`",
        )


def _receive(connection: socket.socket) -> bytes:
    """Everything that the child sends until it closes the socket; empty if the child ended before
    it read its request."""
    reply = b""
    with contextlib.suppress(ConnectionResetError):
        while data := connection.recv(1 << 20):
            reply += data
    return reply


def compiler_line(output: str) -> str:
    """The first error that clang reports, as file:line: text."""
    match = re.search(r"^(\S+):(\d+):\d+: (?:fatal )?error: (.*)$", output, re.MULTILINE)
    return f"{match[1]}:{match[2]}: {match[3]}" if match else ""


def last_line(output: str) -> str:
    lines = output.strip().splitlines()
    return lines[-1].strip() if lines else "it printed nothing"
