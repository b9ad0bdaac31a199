"""Exports of a running trace: when the file is written, and what goes to stderr instead."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest
from read_exports import read_folded, read_massif, read_pprof
from sample_reports import BUSY, KERNEL, QUIET

from leaktrace.errors import EnvironmentUnfitError, LeaktraceError, OutputError, UsageError
from leaktrace.report import create_reporter, open_output
from leaktrace.report.export import EXPORTS


@pytest.fixture
def terminal() -> Iterator[TextIO]:
    main, other = os.openpty()
    with os.fdopen(other, "w") as stream:
        yield stream
    os.close(main)


def test_the_file_is_written_at_the_end(tmp_path: Path) -> None:
    file = tmp_path / "heap.massif"
    file.write_text("yesterday's")
    with open_output(file) as output:
        reporter = create_reporter("massif", output.stream, io.StringIO())
        reporter.begin(BUSY.target)
        reporter.report(BUSY)
        reporter.report(BUSY)
        assert file.read_text() == "yesterday's"
        reporter.end()
    assert len(read_massif(file.read_bytes())) == 2


def test_without_a_report_there_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(LeaktraceError), open_output(tmp_path / "new") as output:
        create_reporter("pprof", output.stream, io.StringIO())
        raise LeaktraceError("the process has ended")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", EXPORTS)
def test_a_terminal_is_spared(name: str, terminal: TextIO) -> None:
    if not EXPORTS[name].is_binary:
        create_reporter(name, terminal, io.StringIO())
        return
    with pytest.raises(UsageError, match="binary format") as caught:
        create_reporter(name, terminal, io.StringIO())
    assert "--output" in caught.value.hint


def test_a_full_disk_is_an_error() -> None:
    with (
        pytest.raises(OutputError, match="No space left on device"),
        open_output(Path("/dev/full")) as output,
    ):
        reporter = create_reporter("pprof", output.stream, io.StringIO())
        reporter.report(BUSY)
        reporter.end()


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google.protobuf", None)
    with pytest.raises(EnvironmentUnfitError, match="protobuf") as caught:
        create_reporter("pprof", io.StringIO(), io.StringIO())
    assert "pip install protobuf" in caught.value.hint


@pytest.mark.parametrize("name", EXPORTS)
def test_losses_and_missing_sections_are_told(name: str, tmp_path: Path) -> None:
    notices = io.StringIO()
    with open_output(tmp_path / "file") as output:
        reporter = create_reporter(name, output.stream, notices)
        reporter.report(QUIET)
        reporter.report(BUSY)
        reporter.report(KERNEL)
        reporter.end()
    told = notices.getvalue()
    assert ("left out: 1 site of pages, not in this format" in told) != EXPORTS[name].has_sections
    for loss in KERNEL.losses:
        assert f": {loss.count:,} " in told or not loss.count


def test_the_quantity_is_that_which_was_asked(tmp_path: Path) -> None:
    file = tmp_path / "file"
    with open_output(file) as output:
        reporter = create_reporter(
            "folded", output.stream, io.StringIO(), quantity="allocated-blocks"
        )
        reporter.report(BUSY)
        reporter.end()
    assert sum(read_folded(file.read_bytes()).values()) == 24_577


WRITER = """
import sys
from sample_reports import BUSY
from leaktrace.report import create_reporter, open_output
with open_output(None) as output:
    reporter = create_reporter("pprof", output.stream, sys.stderr)
    reporter.report(BUSY)
    reporter.end()
"""


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_binary_file_into_a_pipe(unbuffered: str) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "PYTHONUNBUFFERED": unbuffered,
        "PYTHONIOENCODING": "ascii",
    }
    command = [sys.executable, "-c", WRITER]
    content = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout
    assert sum(read_pprof(content).figures["inuse_objects"].values()) == 12_292
