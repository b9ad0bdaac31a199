"""Write docs/leaktrace.1 from the command line's own help and the template docs/leaktrace.1.in.

The parser is the only source of the options' texts, so the page can't differ from --help.
tests/unit/cli/test_man.py checks that the page in the tree is current.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import click

from leaktrace import __version__
from leaktrace.cli.commands import COMMANDS
from leaktrace.cli.trace import command as trace_command

HERE = Path(__file__).resolve().parent
TEMPLATE = HERE / "leaktrace.1.in"
PAGE = HERE / "leaktrace.1"


def roff(text: str) -> str:
    """`text` as roff that prints exactly this text."""
    escaped = text.replace("\\", r"\e").replace("-", r"\-")
    escaped = re.sub(r"[^\0-\x7f]", lambda sign: rf"\[u{ord(sign[0]):04X}]", escaped)
    return re.sub(r"^(?=[.'])", r"\\&", escaped, flags=re.MULTILINE)


def paragraphs(help_text: str) -> Iterator[str]:
    """The paragraphs of a click help text, each as one line of roff."""
    for paragraph in help_text.split("\f", maxsplit=1)[0].strip().split("\n\n"):
        words = paragraph.replace("\b", " ").split()
        if words:
            yield roff(" ".join(words))


def options(command: click.Command, context: click.Context) -> Iterator[str]:
    """One tagged paragraph per option, in the order of --help."""
    for parameter in command.get_params(context):
        # The description explains the arguments.
        is_option = isinstance(parameter, click.Option)
        record = parameter.get_help_record(context) if is_option else None
        if record is not None:
            declaration, text = record
            yield f".TP\n.B {roff(declaration)}\n{roff(' '.join(text.split()))}"


def synopsis(command: click.Command, context: click.Context) -> str:
    """A command's usage line, the name in bold."""
    usage = " ".join(command.collect_usage_pieces(context))
    return f".B {roff(context.command_path)}\n{roff(usage)}"


def subcommand(command: click.Command, context: click.Context) -> str:
    """The section of one sub-command."""
    own = [option for option in options(command, context) if r"\-\-help" not in option]
    return "\n".join(
        [
            f".SS {roff(context.command_path)}",
            synopsis(command, context),
            ".PP",
            "\n.PP\n".join(paragraphs(command.help or "")),
            *own,
        ]
    )


def render(
    command: click.Command, subcommands: Mapping[str, click.Command], template: str, version: str
) -> str:
    """The man page of a command and its sub-commands."""
    context = click.Context(command, info_name="leaktrace", **command.context_settings)
    children = [
        (child, click.Context(child, info_name=f"leaktrace {name}"))
        for name, child in subcommands.items()
        if not child.hidden
    ]
    usages = [synopsis(each, place) for each, place in [(command, context), *children]]
    filled = {
        "VERSION": roff(version),
        "SYNOPSIS": "\n.br\n".join(usages),
        "OPTIONS": "\n".join(options(command, context)),
        "COMMANDS": "\n".join(subcommand(child, place) for child, place in children),
    }
    return re.sub(r"@([A-Z]+)@", lambda word: filled[word[1]], template)


def page() -> str:
    """The current text of leaktrace(1)."""
    return render(trace_command, COMMANDS, TEMPLATE.read_text(encoding="utf-8"), __version__)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
