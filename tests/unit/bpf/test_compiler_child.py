"""Failures of the compiler's child process."""

from __future__ import annotations

import os
import signal
import tempfile

import pytest

from leaktrace.bpf.compiler_child import find_bcc
from leaktrace.bpf.compiler_process import CompilerChild
from leaktrace.errors import ProgramError


def test_a_child_that_dies_with_its_request_unread() -> None:
    child = CompilerChild()
    pid = child._child.pid
    os.kill(pid, signal.SIGSTOP)  # it must not get as far as reading
    child.request({"source": "int x;"})
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(ProgramError, match="the BPF compiler was killed by signal 9: it printed"):
        child.finish()


def test_a_child_that_is_dead_before_the_request() -> None:
    child = CompilerChild()
    child._child.kill()
    child._child.wait()
    child.request({"source": "x" * (4 << 20)})
    with pytest.raises(ProgramError, match="was killed by signal 9"):
        child.finish()


def test_what_the_child_says_needs_no_temporary_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    if find_bcc() is None:
        pytest.skip("needs bcc")
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    monkeypatch.setenv("TMPDIR", "/nowhere")
    child = CompilerChild()
    child.request({})
    with pytest.raises(ProgramError, match="exited with code 1: KeyError: 'kernel_source'"):
        child.finish()
