"""A line about what takes long: on a terminal only, and gone afterwards."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator

import pytest

from leaktrace import notices
from leaktrace.notices import notify, progress


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    ours, theirs = os.openpty()
    with open(theirs, "w", encoding="utf-8") as stream:  # noqa: PTH123
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setattr(notices, "_SILENT_S", 0.01)
        yield ours
    os.close(ours)


def read_until(terminal: int, text: str) -> str:
    shown = ""
    while text not in shown:
        shown += os.read(terminal, 4096).decode()
    return shown


def test_it_is_erased_before_messages_and_at_the_end(terminal: int) -> None:
    with progress("reading\x1b a lot"):
        assert read_until(terminal, ", 0 s").endswith("leaktrace: reading\\x1b a lot, 0 s")
        notify("found it")
        assert "\r\x1b[Kleaktrace: found it" in read_until(terminal, "found it\r\n")
        read_until(terminal, " s")
    assert read_until(terminal, "\r\x1b[K").endswith("\r\x1b[K")


def test_an_error_erases_it(terminal: int) -> None:
    with pytest.raises(KeyboardInterrupt), progress("reading"):
        read_until(terminal, " s")
        raise KeyboardInterrupt
    assert read_until(terminal, "\x1b[K")


def test_nothing_in_files(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(notices, "_SILENT_S", 0.0)
    with progress("reading"):
        assert not any(
            one.name.endswith("(_show_progress)") for one in notices.threading.enumerate()
        )
    assert stream.getvalue() == ""
