"""docs/exports.md: its commands are understood, and those of other tools open the files."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from sample_reports import BUSY

from leaktrace.analysis.quantities import Quantity
from leaktrace.cli.parsing import build_options
from leaktrace.cli.trace import command
from leaktrace.options import ProcessOptions
from leaktrace.report.export import EXPORTS, ExportOptions

PAGE = (Path(__file__).parents[3] / "docs/exports.md").read_text(encoding="utf-8")
BLOCKS = [
    re.findall(r"^    (.+)$", block, re.MULTILINE)
    for block in re.findall(r"(?:^    .+\n)+", PAGE, re.MULTILINE)
]
RUN = ("go", "ms_print")
# They need a browser, which other tests use, or are not packaged.
NOT_RUN = ("go tool pprof -http", "speedscope ", "flamegraph.pl ")


def test_there_are_commands() -> None:
    assert len(BLOCKS) >= 5
    for block in BLOCKS:
        assert block[0].startswith("leaktrace -p PID")


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: str(block[0]))
def test_commands(block: list[str], tmp_path: Path) -> None:
    opened = 0
    for line in block:
        words = shlex.split(line.replace("PID", "1"))
        if words[0] == "leaktrace":
            _write(words[1:], tmp_path)
            continue
        if line.startswith(NOT_RUN):
            continue
        assert words[0] in RUN
        if shutil.which(words[0]) is None:
            pytest.skip(f"needs {words[0]}")
        done = subprocess.run(
            words,
            cwd=tmp_path,
            env={**os.environ, "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, ""), line
        assert "main" in done.stdout or "diff_base" in line
        opened += 1
    assert opened or block[1].startswith(NOT_RUN)


def _write(words: list[str], folder: Path) -> None:
    """Write the file that this command would write, from a report built by hand."""
    with command.make_context("leaktrace", words) as context:
        options = build_options(context.params, ())
    assert isinstance(options, ProcessOptions)
    asked = options.report
    assert asked.output is not None
    export = EXPORTS[asked.format].create(ExportOptions(Quantity(asked.quantity)))
    export.add(BUSY)
    with (folder / asked.output).open("wb") as file:
        export.write(file)


def test_every_format_is_described() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    assert rows == list(EXPORTS)
    for quantity in Quantity:
        assert f"`{quantity}`" in PAGE
