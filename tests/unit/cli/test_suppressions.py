"""--suppressions on the command line: what is understood, and what is refused with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from leaktrace.cli.parsing import build_options
from leaktrace.cli.suppressions import read_suppressions
from leaktrace.cli.trace import command
from leaktrace.errors import UsageError
from leaktrace.options import CommonOptions, Options


def options_of(*words: str) -> Options:
    with command.make_context("leaktrace", list(words)) as context:
        return build_options(context.params, ())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "known.txt"


def test_format(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_bytes(
        b"# known\n\n  leak:^app::Cache::*insert$ \r\nleak:a b:c\n#leak:no\nleak:f\xff\n\tleak:z.so"
    )
    found = read_suppressions(file)
    assert [one.pattern for one in found] == ["^app::Cache::*insert$", "a b:c", "f\udcff", "z.so"]
    assert found[0].origin == f"{file}, line 3"
    assert capsys.readouterr().err == ""


def test_several_files_and_both_modes(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    file.write_text("leak:a\n")
    other.write_text("leak:b\nleak:c\n")
    words = ["--suppressions", str(file), "--suppressions", str(other)]
    for target in (["-p", "1"], ["--kernel"]):
        options = options_of(*target, *words)
        assert isinstance(options, CommonOptions)
        assert [one.pattern for one in options.suppressions] == ["a", "b", "c"]
    plain = options_of("-p", "1")
    assert isinstance(plain, CommonOptions)
    assert plain.suppressions == ()


def test_lines_for_other_sanitizers_are_ignored_and_counted(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text("leak:a\ninterceptor_via_lib:b.so\nrace:c\nrace:d\n")
    assert [one.pattern for one in read_suppressions(file)] == ["a"]
    notice = capsys.readouterr().err
    assert "3 lines are for other sanitizers, and ignored (interceptor_via_lib, race)" in notice


@pytest.mark.parametrize(
    ("content", "line", "what"),
    [
        ("leak:a\nfoo\n", 2, "foo"),
        ("# valgrind's\n{\n", 2, "{"),
        ("leak a\n", 1, "leak a"),
        ("Leak:a\n", 1, "Leak:a"),
        ("\n\nleek:a", 3, "leek:a"),
        ("leak:\n", 1, "every site"),
        ("leak:a\nleak:^*$\n", 2, "every site"),
        ("\x7fELF\x02\x01", 1, "no suppression"),
    ],
)
def test_malformed(file: Path, content: str, line: int, what: str) -> None:
    file.write_text(content)
    with pytest.raises(UsageError) as caught:
        read_suppressions(file)
    assert f"{file}, line {line}: " in caught.value.message
    assert what in caught.value.message
    assert "leak:" in caught.value.hint


def test_unreadable(file: Path, tmp_path: Path) -> None:
    for path, why in ((file, "No such file"), (tmp_path, "directory"), (Path("/dev/zero"), "MiB")):
        with pytest.raises(UsageError, match=why) as caught:
            read_suppressions(path)
        assert str(path) in caught.value.message
        assert caught.value.hint


def test_memleak_format_has_no_place_for_what_is_left_out(file: Path) -> None:
    file.write_text("leak:a\n")
    with pytest.raises(UsageError, match="-f memleak"):
        options_of("-p", "1", "-f", "memleak", "--suppressions", str(file))
