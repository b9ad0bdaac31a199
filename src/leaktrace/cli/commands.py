"""The commands of leaktrace: one file and one line each.

To add a command, write `cli/NAME.py`, which defines `command` (see `CommandModule`), and add its
line to `COMMANDS`. The file is imported when the command is used; `leaktrace --help`, the man page
and the hint for a misspelt name take the rest from here.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, cast

import click

from leaktrace.errors import UsageError
from leaktrace.own.shortages import load_numpy, require_room

SETTINGS: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 80}


class Command(click.Command):
    """A click command that explains surplus words itself."""

    advice: ClassVar[str] = ""  # about such words; "": its help

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.allow_extra_args = True
        rest = super().parse_args(ctx, args)
        if ctx.args:
            self.refuse(ctx.args, ctx)
        return rest

    def refuse(self, words: Sequence[str], context: click.Context) -> None:
        """Raise UsageError for words that no argument of the command takes."""
        raise UsageError(
            f"unexpected words: {' '.join(words)}",
            self.advice or f"see {context.command_path} --help",
        )


class CommandModule(Protocol):
    """What the file of a command defines.

    The function behind `command` returns the exit code, or None for 0. It raises LeaktraceError for
    what the user can cause; only `cli/main.py` prints errors and exits.
    """

    command: click.Command


class _Entry(NamedTuple):
    module: str
    summary: str


class _Commands(Mapping[str, click.Command]):
    """The commands by their names. Each is imported when it is asked for."""

    def __init__(self, **entries: _Entry) -> None:
        self._entries = entries

    def __getitem__(self, name: str) -> click.Command:
        """Raises KeyError, and EnvironmentUnfitError where too little memory is left to load it."""
        entry = self._entries[name]
        require_room()
        load_numpy()
        module = cast(CommandModule, importlib.import_module(entry.module))
        return module.command

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def summaries(self) -> list[tuple[str, str]]:
        """Names and summaries, without importing anything."""
        return [(name, entry.summary) for name, entry in self._entries.items()]


COMMANDS = _Commands(
    doctor=_Entry("leaktrace.cli.doctor", "Show what this machine offers for tracing."),
    go=_Entry(
        "leaktrace.cli.go", "Show the goroutines of a Go program, which pile up, and its heap."
    ),
    heap=_Entry(
        "leaktrace.cli.heap", "Show what is in the heap of a process, and what has leaked."
    ),
    dump=_Entry("leaktrace.cli.dump", "Write out a part of the memory of a process."),
    diff=_Entry("leaktrace.cli.diff", "Compare two recordings, or two moments of one."),
    top=_Entry("leaktrace.cli.top", "Show the sites of a trace in place, and react to keys."),
    maps=_Entry(
        "leaktrace.cli.maps", "Show what a process holds by kind of memory, and its growth."
    ),
    mark=_Entry("leaktrace.cli.mark", "Name this moment in a recording that is being written."),
    show=_Entry("leaktrace.cli.show", "Show the reports of a recording (--record)."),
)
