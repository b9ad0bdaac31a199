"""A line about what takes long: on a terminal only, and gone afterwards."""

from __future__ import annotations

import io
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from leaktrace import notices
from leaktrace.notices import notify, progress


@contextmanager
def terminal_for_stderr(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Its other end. No fixture: pytest replaces stderr again after those."""
    ours, theirs = os.openpty()
    with open(theirs, "w", encoding="utf-8") as stream:  # noqa: PTH123
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setattr(notices, "_SILENT_S", 0.01)
        yield ours
        monkeypatch.undo()
    os.close(ours)


def read_until(terminal: int, text: str) -> str:
    shown = ""
    while text not in shown:
        shown += os.read(terminal, 4096).decode()
    return shown


def test_it_is_erased_before_messages_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal_for_stderr(monkeypatch) as terminal:
        with progress("reading\x1b a lot"):
            assert "leaktrace: reading\\x1b a lot, " in read_until(terminal, " s")
            notify("found it")
            assert "\r\x1b[Kleaktrace: found it" in read_until(terminal, "found it\r\n")
            read_until(terminal, " s")
        assert read_until(terminal, "\r\x1b[K").endswith("\r\x1b[K")


def test_an_error_erases_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal_for_stderr(monkeypatch) as terminal:
        with pytest.raises(KeyboardInterrupt), progress("reading"):
            read_until(terminal, " s")
            raise KeyboardInterrupt
        assert read_until(terminal, "\x1b[K")


def test_nothing_in_files(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(notices, "_SILENT_S", 0.0)
    with progress("reading"):
        assert not any(one.name.endswith("(_show_progress)") for one in threading.enumerate())
    assert stream.getvalue() == ""
