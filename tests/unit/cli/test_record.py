"""--record on the command line, and `leaktrace show`."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from rendered_samples import REPORTS, rendered
from written_recordings import write

from leaktrace.cli.parsing import build_options
from leaktrace.cli.show import command as show_command
from leaktrace.cli.trace import command
from leaktrace.errors import LeaktraceError, OutputError, UsageError
from leaktrace.options import KernelOptions, Options, ProcessOptions, RecordOptions
from leaktrace.session.recorder import opened_recorder


def options_of(*words: str) -> Options:
    with command.make_context("leaktrace", list(words)) as context:
        return build_options(context.params, context.obj or ())


def show(*words: str | Path) -> None:
    show_command.main([str(word) for word in words], standalone_mode=False)


def test_what_is_recorded() -> None:
    for words in (["-p", "1"], ["--kernel"]):
        options = options_of(*words, "--record", "run.gz")
        assert isinstance(options, ProcessOptions | KernelOptions)
        assert options.record == RecordOptions(Path("run.gz"))
        assert options.report.most_sites > options.report.top == 10
        options = options_of(*words)
        assert isinstance(options, ProcessOptions | KernelOptions)
        assert options.record is None
        assert options.report.most_sites == 10


@pytest.mark.parametrize(
    "words",
    [
        ["-p", "1", "--record", "-"],
        ["-p", "1", "--record", "a", "--record", "b"],
        ["-p", "1", "--record", "a", "--output", "./a"],
        ["-p", "1", "--record-contents", "--contents"],
        ["-p", "1", "--record-contents", "--record", "a"],
        ["--all-processes", "--record", "a"],
    ],
)
def test_what_is_refused(words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        options_of(*words)
    assert "--record" in caught.value.message
    assert caught.value.hint


def test_no_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "server.c"
    path.write_text("int main(void) {}")
    options = options_of("-p", "1", "--record", str(path))
    assert isinstance(options, ProcessOptions)
    with pytest.raises(OutputError) as caught, opened_recorder(options):
        pytest.fail("it must not be opened")
    assert "exists" in caught.value.message
    assert path.read_text() == "int main(void) {}"


def test_only_a_regular_file_is_written(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)  # nobody reads it: opening it would wait
    read_end, write_end = os.pipe()
    try:
        for path in (str(fifo), f"/dev/fd/{write_end}", "/dev/full"):
            options = options_of("-p", "1", "--record", path)
            assert isinstance(options, ProcessOptions)
            with pytest.raises(OutputError) as caught, opened_recorder(options):
                pytest.fail("it must not be opened")
            message = f"{path} is not a regular file, and a recording needs one"
            assert (caught.value.message, caught.value.hint) == (message, "name a file")
    finally:
        os.close(read_end)
        os.close(write_end)


def test_a_directory_is_refused(tmp_path: Path) -> None:
    options = options_of("-p", "1", "--record", str(tmp_path))
    assert isinstance(options, ProcessOptions)
    with pytest.raises(OutputError, match="it is a directory"), opened_recorder(options):
        pytest.fail("it must not be opened")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    path = tmp_path / "run.gz"
    first = replace(REPORTS["busy"], number=1, elapsed_s=5.0)
    second = replace(REPORTS["quiet"], number=2, elapsed_s=10.0, time=first.time)
    write(path, [first, second], marks=["busy one"])
    return path


def test_the_last_report(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show(run)
    shown = capsys.readouterr()
    assert "report 2, 10.0 s" in shown.out
    assert "report 1" not in shown.out
    assert f"report 2 of {run}" in shown.err


@pytest.mark.parametrize("word", ["peak", "first", "1", "busy one", "5s", "9s"])
def test_another_report(run: Path, word: str, capsys: pytest.CaptureFixture[str]) -> None:
    show(run, "--at", word, "-f", "json", "-T", "1")
    shown = capsys.readouterr()
    value = json.loads(shown.out)
    assert (value["number"], len(value["sites"])) == (1, 1)
    assert "report 1 of 2" in shown.err
    assert ("most outstanding bytes" in shown.err) == (word == "peak")


def test_several_reports(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show(run, "--from", "busy one", "-f", "json")
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["number"] for line in lines] == [1, 2]


def test_the_marks(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show(run, "--marks")
    assert capsys.readouterr().out.endswith("report 1       busy one\n")
    show(run, "--marks", "-f", "json")
    assert json.loads(capsys.readouterr().out)["name"] == "busy one"


def test_a_stream_of_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "stream"
    path.write_text(rendered("json", REPORTS["busy"]))
    show(path)
    assert capsys.readouterr().out == rendered("text", REPORTS["busy"])


def test_one_that_was_cut_off(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run.write_bytes(run.read_bytes()[:-40])
    show(run)
    shown = capsys.readouterr()
    assert "was cut off" in shown.err
    assert shown.out


def test_one_without_a_report(tmp_path: Path) -> None:
    path = tmp_path / "run"
    write(path, [], ends=False)
    with pytest.raises(LeaktraceError, match="has no report: the recording was cut off before"):
        show(path)


def test_one_or_several(run: Path) -> None:
    with pytest.raises(UsageError, match="can't be combined"):
        show(run, "--at", "1", "--to", "2")
