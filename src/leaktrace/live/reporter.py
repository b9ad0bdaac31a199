"""The live view as the session drives it: reports go in, the screen is painted, keys come out."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self, TextIO

from leaktrace import units
from leaktrace.live.keys import KeyParser
from leaktrace.live.saving import save
from leaktrace.live.screen import screen_lines
from leaktrace.live.state import Action, View
from leaktrace.live.terminal import Terminal
from leaktrace.model import Event, Report, TargetInfo
from leaktrace.notices import diverted, notify
from leaktrace.report.layout import painted
from leaktrace.report.reporter import Reporter
from leaktrace.report.text import TextReporter


def open_live(output: TextIO) -> LiveReporter | None:
    """The live view on this terminal; None, after a notice, if there is none: then plain reports
    take its place."""
    try:
        keys = sys.stdin.fileno()
        is_terminal = os.isatty(keys) and output.isatty()
    except (AttributeError, OSError, ValueError):
        is_terminal = False
    if not is_terminal or os.environ.get("TERM", "dumb") == "dumb":
        notify("the live view needs a terminal for its input and output: plain reports follow")
        return None
    return LiveReporter(output, Terminal(keys, output.fileno()))


class LiveReporter(Reporter):
    """A context manager. The terminal is taken by `begin`, and given back in any case."""

    summary: ClassVar[str] = "the live view"

    def __init__(self, output: TextIO, terminal: Terminal) -> None:
        super().__init__(output, sys.stderr)
        self.on_mark: Callable[[str], object] | None = None  # is told of each mark
        self.view = View()
        self._terminal = terminal
        self._keys = KeyParser()
        self._is_gone = False
        self._diverted = diverted(self._tell)
        self._is_open = False
        encoding = (output.encoding or "ascii").lower().replace("-", "")
        self._encoding = output.encoding or "ascii"
        self._blocks = encoding == "utf8"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def begin(self, target: TargetInfo, command: Sequence[str] = ()) -> None:
        """Take the terminal. Raises OSError if that is not possible."""
        self._diverted.__enter__()
        self._is_open = True
        self._terminal.open()
        self._paint()

    def report(self, report: Report) -> None:
        self.view.take(report)
        self._paint()

    def events(self, events: Iterable[Event]) -> None:
        """Calls are not shown."""

    def end(self) -> None:
        """Give the terminal back, and print the last report."""
        self._close()
        if self.view.newest is not None:
            TextReporter(self.output, self.notices).report(self.view.newest)

    def fileno(self) -> int | None:
        """Readable when keys were pressed; None: the terminal is gone."""
        return None if self._is_gone else self._terminal.keys

    def look(self) -> Action | None:
        """Do what keys and signals ask for, and paint. Returns what the session has to do: QUIT,
        REPORT."""
        asked = None
        has_changed = self._terminal.take_change()
        data = b"" if self._is_gone else self._terminal.read()
        if data is None:
            self._is_gone = True
        for key in self._keys.feed(data or b""):
            has_changed = True
            action = self.view.press(key)
            if action in (Action.QUIT, Action.REPORT):
                asked = action
                break
            self._do(action)
        if has_changed and asked is not Action.QUIT:
            self._paint()
        return asked

    def _do(self, action: Action | None) -> None:
        report = self.view.report
        if action is Action.MARK and self.on_mark is not None:
            self.on_mark(f"mark {len(self.view.marks)}")
        if action not in (Action.SAVE_TEXT, Action.SAVE_JSON) or report is None:
            return
        format_name = "text" if action is Action.SAVE_TEXT else "json"
        try:
            path = save(report, format_name, Path.cwd())
            self.view.message = f"saved report {report.number} in {path}"
        except OSError as error:
            self.view.message = f"can't save the report: {error.strerror}"

    def _tell(self, message: str) -> None:
        self.view.tell(message)
        if self._is_open:
            self._paint()

    def _paint(self) -> None:
        width, height = self._terminal.size()
        lines = screen_lines(self.view, width, height, blocks=self._blocks)
        self._terminal.paint(painted(self.output, lines).removesuffix("\n"), self._encoding)

    def _close(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        self._terminal.close()
        self._diverted.__exit__(None, None, None)
        earlier = self.view.message_count - len(self.view.messages)
        if earlier:
            notify(f"left out here: {units.counted(earlier, 'earlier message')} of the live view")
        for message in self.view.messages:
            notify(message)
