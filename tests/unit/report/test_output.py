"""Where reports go: files that keep their content, broken streams, errors with a hint."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from leaktrace.errors import LeaktraceError, OutputError, UsageError
from leaktrace.report import FORMATS, create_reporter, open_output
from leaktrace.report.delivery import Message, QueuedDestination
from leaktrace.report.reporter import Reporter


def test_every_format_says_what_it_is_for() -> None:
    assert list(FORMATS)[:3] == ["text", "memleak", "json"]
    for reporter in FORMATS.values():
        assert issubclass(reporter, Reporter)
        assert reporter.summary


def test_unknown_format_names_those_there_are() -> None:
    with pytest.raises(UsageError) as caught:
        create_reporter("xml", io.StringIO(), io.StringIO())
    assert "xml" in caught.value.message
    assert "text, memleak, json" in caught.value.hint


def test_file_is_written_and_flushed_at_once(tmp_path: Path) -> None:
    path = tmp_path / "report"
    with open_output(path) as output:
        create_reporter("text", output.stream, io.StringIO()).write("größe\n")
        assert path.read_text(encoding="utf-8") == "größe\n"


def test_file_created_and_never_written_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "report"
    with open_output(path):
        assert path.exists()
    assert not path.exists()


def test_file_is_removed_when_the_run_fails_early(tmp_path: Path) -> None:
    path = tmp_path / "report"
    with pytest.raises(LeaktraceError), open_output(path):
        raise LeaktraceError("no such process")
    assert not path.exists()


def test_existing_file_keeps_its_content_until_the_first_report(tmp_path: Path) -> None:
    path = tmp_path / "report"
    path.write_text("a long report of yesterday\n")
    with pytest.raises(LeaktraceError), open_output(path):
        raise LeaktraceError("no such process")
    assert path.read_text() == "a long report of yesterday\n"
    with open_output(path) as output:
        output.stream.write("first\n")
        output.stream.flush()
        output.stream.write("second\n")
    assert path.read_text() == "first\nsecond\n"


def test_missing_folder(tmp_path: Path) -> None:
    path = tmp_path / "no" / "such" / "report"
    with pytest.raises(OutputError) as caught:
        open_output(path)
    assert f"the directory {path.parent} doesn't exist" in caught.value.message
    assert caught.value.hint == f"create it first: mkdir -p {path.parent}"
    assert not path.parent.exists()


def test_folder_instead_of_file(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="it is a directory"):
        open_output(tmp_path)


def test_file_instead_of_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file is not a directory"):
        open_output(tmp_path / "file" / "report")


def test_dangling_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    with pytest.raises(OutputError, match="symbolic link"):
        open_output(tmp_path / "link")
    assert not (tmp_path / "nothing").exists()


def test_name_too_long(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="File name too long"):
        open_output(tmp_path / ("x" * 300))


def test_no_permission() -> None:
    """A file that not even root may write."""
    with pytest.raises(OutputError, match="permission denied") as caught:
        open_output(Path("/proc/sys/kernel/osrelease"))
    assert caught.value.hint


def test_disk_full_is_an_error_with_a_hint() -> None:
    with pytest.raises(OutputError) as caught, open_output(Path("/dev/full")) as output:
        create_reporter("text", output.stream, io.StringIO()).write("text\n")
    assert "No space left on device" in caught.value.message
    assert caught.value.hint


def test_a_file_of_which_nothing_could_be_written_does_not_stay(tmp_path: Path) -> None:
    """Nor is there an empty one for a script to read."""
    program = textwrap.dedent(
        """
        import resource, signal, sys
        from pathlib import Path
        from leaktrace.report.output import open_output, write_content
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        is_waiting = sys.argv[2] == "waiting"
        with open_output(Path(sys.argv[1]), is_waiting=is_waiting) as output:
            write_content(output.stream, b"x" * 20_000)
        """
    )
    for how in ("waiting", "tracing"):
        done = subprocess.run(
            [sys.executable, "-c", program, tmp_path / "page", how],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        assert "OutputError: can't write" in done.stderr
        assert not list(tmp_path.iterdir())


def test_a_report_that_does_not_fit_leaves_nothing(tmp_path: Path) -> None:
    """The limit of the size of a file stands for a full disk: the first part fits."""
    program = textwrap.dedent(
        """
        import io, resource, signal, sys
        from pathlib import Path
        from leaktrace.report import create_reporter, open_output
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        with open_output(Path(sys.argv[1])) as output:
            reporter = create_reporter("text", output.stream, io.StringIO())
            for text in ("first\\n", "x" * 20_000, "last\\n"):
                reporter.write(text)
            assert output.missing.unwritten_reports == 1, output.missing
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "report")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "report").read_text() == "first\nlast\n"
    assert "tracing goes on" in done.stderr
    assert "can be written again" in done.stderr


def test_a_reader_that_stops_costs_the_oldest_reports(capsys: pytest.CaptureFixture[str]) -> None:
    reading, writing = os.pipe()
    pipe = QueuedDestination("the pipe", writing, most_waiting_bytes=250_000)
    reports = [f"{number:03}".encode() * 33_000 + b"\n" for number in range(10)]
    for report in reports:
        pipe.put(Message(report))
    assert pipe.missing.unread_reports >= 6
    assert "has stopped" in capsys.readouterr().err
    with open(reading, "rb") as reader:  # noqa: PTH123
        arrived = [reader.readline()]
        while arrived[-1] != reports[-1]:
            arrived.append(reader.readline())
        pipe.finish(lambda: False)
    assert all(one in reports for one in arrived)  # whole ones
    assert len(arrived) + pipe.missing.unread_reports == len(reports)
    with pytest.raises(BrokenPipeError):
        pipe.put(Message(b"text"))
    os.close(writing)


def test_a_slow_reader_gets_all() -> None:
    """What comes meanwhile stays with the kernel side."""
    reading, writing = os.pipe()
    pipe = QueuedDestination("the pipe", writing, most_waiting_bytes=100_000)
    lines = [f"{number:03}".encode() * 20_000 + b"\n" for number in range(40)]
    arrived: list[bytes] = []

    def read() -> None:
        with open(reading, "rb", buffering=0) as reader:  # noqa: PTH123
            while len(b"".join(arrived)) < sum(map(len, lines)):
                arrived.append(reader.read(8192))

    reader = threading.Thread(target=read)
    reader.start()
    for line in lines:
        pipe.put(Message(line, call_count=1))
    pipe.settle()
    assert pipe.missing.unread_calls == 0
    reader.join()
    assert b"".join(arrived) == b"".join(lines)
    os.close(writing)


def test_a_reader_that_has_stopped_does_not_hold_up_the_end() -> None:
    reading, writing = os.pipe()
    pipe = QueuedDestination("the pipe", writing)
    pipe.put(Message(b"x" * 200_000))
    with pytest.raises(OutputError, match="the last report was not taken"):
        pipe.finish(lambda: True)
    os.close(reading)


def test_notices_that_break_are_no_reason_to_stop() -> None:
    notices = io.StringIO()
    notices.close()
    create_reporter("memleak", io.StringIO(), notices).notice("lost: 1")


PROGRAM = textwrap.dedent(
    """
    import io, sys
    from leaktrace.errors import OutputError
    from leaktrace.report import create_reporter, open_output
    try:
        with open_output(None) as output:
            reporter = create_reporter("text", output.stream, io.StringIO())
            for _ in range(1000):
                reporter.write("line\\n" * 1000)
    except BrokenPipeError:
        sys.exit(0)
    except OutputError as error:
        print(error.message, file=sys.stderr)
        sys.exit(1)
    """
)


def run_program(redirection: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", f'"$0" -c "$1" {redirection}', sys.executable, PROGRAM],
        capture_output=True,
        text=True,
        check=False,
    )


def test_head_ends_the_run_quietly() -> None:
    done = run_program("| head -n 1")
    assert (done.stdout, done.stderr, done.returncode) == ("line\n", "", 0)


def test_full_stdout_is_one_line_of_error() -> None:
    done = run_program(">/dev/full")
    assert done.returncode == 1
    told, _, error = done.stderr.splitlines()
    assert told.endswith("can't write to standard output: No space left on device; tracing goes on")
    assert error == "can't write the report to standard output: No space left on device"


def test_closed_stdout_is_one_line_of_error() -> None:
    done = run_program(">&-")
    assert done.returncode == 1
    assert done.stderr == "standard output is closed\n"
