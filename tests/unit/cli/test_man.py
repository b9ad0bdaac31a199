"""The man page in the tree is current."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import click
import pytest

from leaktrace import __version__, errors
from leaktrace.cli.commands import COMMANDS
from leaktrace.cli.trace import command as trace_command
from leaktrace.options import LeakExit


@pytest.fixture(scope="module")
def make_man(repository: Path) -> ModuleType:
    """docs/make_man.py, which is not part of the package."""
    spec = importlib.util.spec_from_file_location("make_man", repository / "docs/make_man.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def page(repository: Path) -> str:
    return (repository / "docs/leaktrace.1").read_text(encoding="utf-8")


def test_the_page_is_current(make_man: ModuleType, page: str) -> None:
    assert page == make_man.page(), "run: make man"
    assert f"leaktrace {__version__}" in page


def options_of(command: click.Command) -> list[str]:
    return [
        name
        for parameter in command.params
        if isinstance(parameter, click.Option) and not parameter.hidden
        for name in parameter.opts
    ]


def test_every_option_is_in_it(page: str) -> None:
    plain = page.replace(r"\-", "-")
    commands = [trace_command, *COMMANDS.values()]
    names = [name for command in commands for name in options_of(command) if not command.hidden]
    assert len(names) > 20
    missing = [name for name in names if not re.search(rf"(?<![\w-]){name}(?![\w-])", plain)]
    assert missing == []


def test_every_exit_status_is_in_it(page: str) -> None:
    section = page.split(".SH EXIT STATUS\n")[1].split(".SH ", maxsplit=1)[0]
    listed = {int(number) for number in re.findall(r"^\.B (\d+)$", section, re.MULTILINE)}
    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    used = {each.exit_code for each in classes if issubclass(each, errors.LeaktraceError)}
    assert listed == used | {0, LeakExit.status}


def test_text_is_printed_as_it_is(make_man: ModuleType) -> None:
    assert (
        make_man.roff(".hidden\n'quoted\na\\b --x…")
        == "\\&.hidden\n\\&'quoted\na\\eb \\-\\-x\\[u2026]"
    )


def test_options_come_from_the_parser(make_man: ModuleType) -> None:
    @click.command()
    @click.option("-o", "--older", metavar="MS", help="Leave out what is\n  younger. [ms]")
    @click.option("--secret", hidden=True)
    @click.argument("interval", required=False)
    def command() -> None:
        """Unused."""

    text = make_man.render(command, {}, "@SYNOPSIS@\n@OPTIONS@\nv@VERSION@", "1.0-2")
    assert text == (
        ".B leaktrace\n[OPTIONS] [INTERVAL]\n"
        ".TP\n.B \\-o, \\-\\-older MS\nLeave out what is younger. [ms]\n"
        ".TP\n.B \\-\\-help\nShow this message and exit.\n"
        "v1.0\\-2"
    )


@pytest.mark.may_skip("groff is no part of what tests install")
def test_groff_has_no_complaint(repository: Path) -> None:
    groff = shutil.which("groff")
    if groff is None:
        pytest.skip("needs groff")
    result = subprocess.run(
        [groff, "-man", "-Tutf8", "-ww", "-z", str(repository / "docs/leaktrace.1")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
