"""The terminal is as before, however the view ends. A pseudo-terminal stands for the user's."""

from __future__ import annotations

import io
import os
import signal
import termios
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sample_reports import BUSY

from leaktrace.live.reporter import LiveReporter, open_live
from leaktrace.live.saving import save
from leaktrace.live.state import Action
from leaktrace.live.terminal import Terminal
from leaktrace.notices import notify
from leaktrace.report.delivery import QueuedDestination
from leaktrace.report.output import ReportStream


@pytest.fixture
def pair() -> Iterator[tuple[int, int]]:
    ours, theirs = os.openpty()
    yield ours, theirs
    os.close(ours)
    os.close(theirs)


def reporter_on(theirs: int) -> LiveReporter:
    stream: Any = ReportStream(QueuedDestination("it", theirs), theirs, "utf-8")
    return LiveReporter(stream, Terminal(theirs, theirs))


def shown(ours: int) -> str:
    os.set_blocking(ours, False)
    text = b""
    try:
        while piece := os.read(ours, 65536):
            text += piece
    except BlockingIOError:
        pass
    return text.decode()


def test_a_view_and_its_keys(pair: tuple[int, int], capsys: pytest.CaptureFixture[str]) -> None:
    ours, theirs = pair
    before = termios.tcgetattr(theirs)
    handlers = [signal.getsignal(one) for one in (signal.SIGTSTP, signal.SIGWINCH)]
    with reporter_on(theirs) as reporter:
        reporter.begin(BUSY.target)
        assert termios.tcgetattr(theirs) != before
        reporter.report(BUSY)
        notify("the symbols are late")
        assert "the symbols are late" in shown(ours)
        os.write(ours, b"\x1b[Bm")
        assert reporter.look() is None
        assert "since mark 1" in shown(ours)
        assert reporter.look() is None
        assert shown(ours) == ""
        os.write(ours, b"sr")
        assert reporter.look() is Action.REPORT
        os.write(ours, b"q")
        assert reporter.look() is Action.QUIT
        reporter.report(replace(BUSY, final=True, reason="ended by the user"))
        shown(ours)
        reporter.end()
    after, _, plain = shown(ours).partition("\x1b[?1049l")
    assert "\x1b[?25h" in after
    assert "final report: ended by the user" in plain
    assert termios.tcgetattr(theirs) == before
    assert [signal.getsignal(one) for one in (signal.SIGTSTP, signal.SIGWINCH)] == handlers
    assert "the symbols are late" in capsys.readouterr().err


def test_of_many_messages_the_last_are_repeated(
    pair: tuple[int, int], capsys: pytest.CaptureFixture[str]
) -> None:
    _, theirs = pair
    with reporter_on(theirs) as reporter:
        reporter.begin(BUSY.target)
        for number in range(53):
            reporter.view.tell(f"message {number}")
    first, second, *_, last = capsys.readouterr().err.splitlines()
    assert first == "leaktrace: left out here: 3 earlier messages of the live view"
    assert (second, last) == ("leaktrace: message 3", "leaktrace: message 52")


def test_an_error_gives_it_back(pair: tuple[int, int]) -> None:
    ours, theirs = pair
    before = termios.tcgetattr(theirs)
    with pytest.raises(KeyboardInterrupt), reporter_on(theirs) as reporter:
        reporter.begin(BUSY.target)
        raise KeyboardInterrupt
    assert termios.tcgetattr(theirs) == before
    assert shown(ours).endswith("\x1b[?1049l")


def test_another_size_is_painted_at_once(pair: tuple[int, int]) -> None:
    ours, theirs = pair
    with reporter_on(theirs) as reporter:
        termios.tcsetwinsize(theirs, (24, 80))
        reporter.begin(BUSY.target)
        reporter.report(BUSY)
        shown(ours)
        termios.tcsetwinsize(theirs, (10, 200))
        os.kill(os.getpid(), signal.SIGWINCH)
        reporter.look()
        text = shown(ours)
    assert text.count("\n") == 9
    assert "change" in text  # a column of wide screens


def test_a_terminal_that_takes_nothing_holds_nothing_up(pair: tuple[int, int]) -> None:
    _, theirs = pair
    with reporter_on(theirs) as reporter:
        reporter.begin(BUSY.target)
        for _ in range(100):  # far more than a terminal buffers; nobody reads
            reporter.report(BUSY)


def test_full_lines_keep_their_last_cell(pair: tuple[int, int]) -> None:
    """A terminal that has written its last column erases it with what erases to the end of it."""
    ours, theirs = pair
    terminal = Terminal(theirs, theirs)
    terminal.open()
    terminal.paint("first\nsecond", "utf-8")
    text = shown(ours)
    terminal.close()
    after = text.replace("\r\r", "\r").partition("\x1b[Kfirst\r\n\x1b[Ksecond")[2]
    assert after.startswith("\r\n\x1b[J")


def test_no_colour(pair: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pair
    monkeypatch.setenv("NO_COLOR", "1")
    with reporter_on(theirs) as reporter:
        reporter.begin(BUSY.target)
        reporter.report(BUSY)
        text = shown(ours)
    assert "growing" in text
    assert "\x1b[3" not in text
    assert ";3" not in text


def test_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert open_live(io.StringIO()) is None
    assert "needs a terminal" in capsys.readouterr().err


def test_saving_replaces_nothing(tmp_path: Path) -> None:
    first, second = save(BUSY, "text", tmp_path), save(BUSY, "text", tmp_path)
    third = save(BUSY, "json", tmp_path)
    assert first != second
    assert first.read_text() == second.read_text()
    assert "httpd (pid 4242)" in first.read_text()
    assert "\x1b" not in first.read_text()
    assert third.suffix == ".json"
    with pytest.raises(FileNotFoundError):
        save(BUSY, "text", tmp_path / "missing")
