"""Writes what `leaktrace diff` has found, in each of its formats."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

from rich.text import Text

from leaktrace.analysis.comparing.changes import Diff
from leaktrace.analysis.comparing.generations import Generations
from leaktrace.errors import UsageError
from leaktrace.report.diff_exports import DIFF_EXPORTS, left_out, write_diff
from leaktrace.report.diff_json import diff_object
from leaktrace.report.diff_notes import notes
from leaktrace.report.diff_text import diff_lines
from leaktrace.report.export_reporter import refuse_terminal
from leaktrace.report.generations_json import generations_object
from leaktrace.report.generations_text import generation_lines
from leaktrace.report.json_lines import json_line
from leaktrace.report.layout import painted
from leaktrace.report.output import write_content
from leaktrace.report.reporter import USUAL_COLUMNS, Writer, terminal_width


class ComparisonWriter(Writer):
    """The output of one comparison."""

    def show(
        self, compared: Diff | Generations, names: Sequence[str], top: int, format_name: str
    ) -> None:
        """Write it. `names`: of the two or three reports; `top`: how many sites are listed.

        Raises UsageError for a format that can't be used, OutputError, BrokenPipeError.
        """
        width = terminal_width(self.output) or USUAL_COLUMNS
        if isinstance(compared, Diff):
            two = names[0], names[1]
            if format_name in DIFF_EXPORTS:
                self._export(compared, two, format_name)
            elif format_name == "json":
                self.write(json_line(diff_object(compared, two, top)))
            else:
                self._lines(diff_lines(compared, two, top, width))
            return
        three = names[0], names[1], names[2]
        if format_name in DIFF_EXPORTS:
            raise UsageError(
                f"--still-at has no -f {format_name}: it finds bounds, not figures",
                "use -f text or json",
            )
        if format_name == "json":
            self.write(json_line(generations_object(compared, three, top)))
        else:
            self._lines(generation_lines(compared, three, top, width))

    def _lines(self, lines: Iterable[Text]) -> None:
        self.write(painted(self.output, list(lines)))

    def _export(self, diff: Diff, names: tuple[str, str], format_name: str) -> None:
        refuse_terminal(format_name, self.output)
        content = io.BytesIO()
        write_diff(format_name, diff, names, content)
        write_content(self.output, content.getbuffer())
        for note in (*notes(diff), *left_out(format_name, diff)):
            self.notice(note)
