"""Reports in files by time: names, whole files, and which are removed."""

from __future__ import annotations

import os
import resource
import signal
import threading
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from leaktrace.errors import OutputError, UsageError
from leaktrace.report.delivery import Message
from leaktrace.report.periodic import PeriodicFiles, check_pattern

START = datetime(2026, 12, 2, 9, 58)


class Clock:
    """A minute later at each look."""

    def __init__(self, step: timedelta = timedelta(minutes=1)) -> None:
        self._minutes, self._step = START - step, step

    def __call__(self) -> datetime:
        self._minutes += self._step
        return self._minutes


def put(files: PeriodicFiles, *texts: str) -> None:
    for text in texts:
        files.put(Message(text.encode()))


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(folder.iterdir())}


def test_a_new_name_is_a_new_file(tmp_path: Path) -> None:
    files = PeriodicFiles(tmp_path / "leak-%H%M.json", now=Clock(timedelta(seconds=30)))
    assert contents(tmp_path) == {}
    put(files, "one\n", "two\n", "three\n")
    assert contents(tmp_path) == {"leak-0958.json": "one\ntwo\n", "leak-0959.json": "three\n"}


def test_the_newest_of_its_own_files_are_kept(tmp_path: Path) -> None:
    (tmp_path / "leak-0901.json").write_text("of another run")
    files = PeriodicFiles(tmp_path / "leak-%H%M.json", keep=2, now=Clock())
    put(files, "one\n", "two\n")
    (tmp_path / "leak-0958.json").unlink()
    (tmp_path / "leak-0958.json").write_text("of somebody else")
    put(files, "three\n", "four\n")
    assert contents(tmp_path) == {
        "leak-0901.json": "of another run",
        "leak-0958.json": "of somebody else",
        "leak-1000.json": "three\n",
        "leak-1001.json": "four\n",
    }


def test_what_was_written_before_a_full_disk_stays(tmp_path: Path) -> None:
    """Calls are appended. The one that can't be written whole is left out."""
    files = PeriodicFiles(tmp_path / "leak-%Y.txt", keep=1, now=lambda: START)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        for text in ("one\n", "two\n"):
            files.put(Message(text.encode(), call_count=1))
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
        files.put(Message(b"three is long\n", call_count=3))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    files.put(Message(b"four\n", call_count=1))
    assert contents(tmp_path) == {"leak-2026.txt": "one\ntwo\nfour\n"}
    assert files.missing.unwritten_calls == 3


def test_no_link_is_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    (tmp_path / f".leaktrace-{os.getpid()}.part").symlink_to(victim)
    put(PeriodicFiles(tmp_path / "leak-%H%M.json", now=Clock()), "one\n")
    assert contents(tmp_path) == {"leak-0958.json": "one\n"}


def test_a_name_that_comes_again_is_a_new_file(tmp_path: Path) -> None:
    files = PeriodicFiles(tmp_path / "leak-%M.json", keep=2, now=Clock(timedelta(minutes=30)))
    put(files, "one\n", "two\n", "three\n")
    assert contents(tmp_path) == {"leak-28.json": "two\n", "leak-58.json": "three\n"}


def test_a_reader_sees_whole_reports(tmp_path: Path) -> None:
    report = "x" * 300_000 + "\n"
    files = PeriodicFiles(tmp_path / "%Y.json", now=Clock())
    halves: list[str] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            for path in tmp_path.glob("*.json"):
                text = path.read_text()
                if not text or len(text) % len(report):
                    halves.append(text[-20:])

    reader = threading.Thread(target=read)
    reader.start()
    put(files, *[report] * 20)
    done.set()
    reader.join()
    assert halves == []
    assert (tmp_path / "2026.json").read_text() == report * 20


def test_traced_calls_are_appended(tmp_path: Path) -> None:
    files = PeriodicFiles(tmp_path / "%Y.txt", now=Clock())
    for text in ("one\n", "two\n", "three\n"):
        files.put(Message(text.encode(), call_count=1))
    assert contents(tmp_path) == {"2026.txt": "one\ntwo\nthree\n"}


def test_a_failure_is_told_counted_and_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = PeriodicFiles(tmp_path / "leak-%M", now=Clock())
    (tmp_path / "leak-58").mkdir()
    (tmp_path / "leak-58" / "in it").touch()  # a folder that is not empty can't be replaced
    put(files, "one\n")
    assert files.missing.unwritten_reports == 1
    assert "Is a directory" in capsys.readouterr().err
    with pytest.raises(OutputError, match="Is a directory"):
        files.finish(lambda: False)
    put(files, "two\n")
    assert "not written until now: 1" in capsys.readouterr().err
    files.finish(lambda: False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["leak-58", "leak-59"]


@pytest.mark.parametrize(
    ("pattern", "named"),
    [("leak-%Q", "%Q"), ("leak-%", "%"), ("%Y/leak-%H", "folder"), ("leak-%D", "%D")],
)
def test_what_is_no_time(pattern: str, named: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_pattern(Path(pattern))
    assert named in caught.value.message
