"""What every report format has in common: a reporter takes values and writes text to a stream.

A reporter consumes `Report` and `Event` values; it knows no BPF and no process. The session drives
it:

    with open_output(options.report.output) as output:      # before anything is traced
        reporter = create_reporter(options.report.format, output.stream, sys.stderr)
        reporter.begin(target, command)
        reporter.report(report)                             # once per interval
        reporter.end()
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import ClassVar, TextIO

from leaktrace.model import Event, Report, TargetInfo
from leaktrace.notices import would_block

USUAL_COLUMNS = 80
_NARROWEST = 40  # on a terminal narrower than this, lines wrap


class Writer:
    """Writes to two streams: `output` gets the reports, `notices` what a format can't express."""

    def __init__(self, output: TextIO, notices: TextIO) -> None:
        self.output = output
        self.notices = notices

    def write(self, text: str) -> None:
        """Write `text` to the output and flush it: one message. What can't be written is counted
        there (`delivery`).

        Raises:
            BrokenPipeError: the reader has closed the pipe; the run ends quietly.
        """
        self.output.write(text)
        self.output.flush()

    def notice(self, text: str) -> None:
        """Write a line to the second stream; a closed, broken or full one is ignored."""
        if would_block(self.notices):
            return
        try:
            self.notices.write(f"{text}\n")
            self.notices.flush()
        except (OSError, ValueError):
            return

    def end(self) -> None:
        """No report follows. A format that needs a closing line writes it here."""


class Reporter(Writer, ABC):
    """One format."""

    summary: ClassVar[str]  # one line for --help

    def begin(self, target: TargetInfo, command: Sequence[str] = ()) -> None:
        """Tracing is about to start; `command` is what leaktrace runs, empty if nothing."""

    @abstractmethod
    def report(self, report: Report) -> None:
        """Write one report and flush it."""

    def event(self, event: Event) -> None:
        """Write one event and flush it."""
        self.events((event,))

    @abstractmethod
    def events(self, events: Iterable[Event]) -> None:
        """Write a batch of events, one per line, and flush once."""


def terminal_width(output: TextIO) -> int | None:
    """The columns of a terminal `output`, at least 40; None for files and pipes."""
    if not output.isatty():
        return None
    try:
        columns = os.get_terminal_size(output.fileno()).columns
    except OSError:
        columns = 0
    return max(columns or USUAL_COLUMNS, _NARROWEST)
