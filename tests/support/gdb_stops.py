"""gdb for independent stacks: one gdb per process, which prints the stacks at each stop."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import IO, Self

import pytest
from harness.lines import DEADLINE_S, Lines

SCRIPT = Path(__file__).with_name("gdb_inside.py")


class Gdb:
    """gdb attached to a process, which is stopped until `next_stop` continues it."""

    def __init__(self, pid: int) -> None:
        """Skips the test where gdb is missing or may not attach."""
        gdb = shutil.which("gdb")
        if gdb is None:
            pytest.skip("needs gdb")
        commands_read, commands_write = os.pipe()
        answers_read, answers_write = os.pipe()
        self._output: IO[bytes] = TemporaryFile()  # noqa: SIM115 (closed in __exit__)
        self._process = subprocess.Popen(
            [gdb, "-nx", "-batch", "-iex", "set debuginfod enabled off"]  # noqa: RUF005
            + ["-p", str(pid), "-x", str(SCRIPT)],
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._output,
            pass_fds=(commands_read, answers_write),
            env=os.environ | {"LEAKTRACE_GDB_PIPES": f"{commands_read},{answers_write}"},
        )
        os.close(commands_read)
        os.close(answers_write)
        self._commands = os.fdopen(commands_write, "wb", buffering=0)
        self._answers = Lines(os.fdopen(answers_read, "rb"), "gdb")
        if self._answers.next() is None:
            said = self._said()
            if "ptrace" in said and "not permitted" in said:
                pytest.skip(f"gdb may not attach here: {said}")
            raise AssertionError(said)

    def next_stop(self) -> dict[int, list[int]] | None:
        """Continue the process until something sends it SIGSTOP, which it doesn't receive.

        Returns the pcs of all physical frames of each thread, innermost first, by thread id; None
        when the process has ended.
        """
        self._commands.write(b"\n")
        line = self._answers.next()
        assert line is not None, self._said()
        stacks = json.loads(line)
        return None if stacks is None else {int(tid): pcs for tid, pcs in stacks.items()}

    def _said(self) -> str:
        self._output.seek(0)
        return self._output.read().decode(errors="replace")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._commands.close()  # it detaches and ends
        try:
            self._process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._output.close()
