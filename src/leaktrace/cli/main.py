"""The command line: runs a command, explains its errors, exits. Nothing else prints errors or
exits."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

import click

from leaktrace.cli.commands import COMMANDS
from leaktrace.cli.values import name_of, see_help
from leaktrace.errors import LeaktraceError
from leaktrace.notices import hint, notify
from leaktrace.own.shortages import no_memory, not_loaded, shortage, unexplained


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit with its code. Never a traceback for what a user can cause."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    exit_code = guarded(lambda: _invoke(given))
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # its reader has ended, or it is closed
            stream.flush()
    # Not sys.exit: Python would first tear down all its modules, which takes longer than attaching
    # the probes. Everything that outlives a process is closed already.
    os._exit(exit_code)


def _invoke(arguments: list[str]) -> Any:  # noqa: ANN401
    """As command.main() does; but that reports an error when the reader of a pipe has ended."""
    name = "leaktrace"
    if arguments and arguments[0] in COMMANDS:
        command, name = COMMANDS[arguments[0]], f"{name} {arguments[0]}"
        arguments = arguments[1:]
    else:
        from leaktrace.cli.trace import command  # noqa: PLC0415 (its failures are explained, too)
    with command.make_context(name, arguments) as context:
        return command.invoke(context)


def guarded(action: Callable[[], Any]) -> int:
    """Run `action` and return the exit code. An error is printed as two lines: what happened, and
    what to do."""
    try:
        result = action()
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        _complain(*_in_our_words(error))
        return error.exit_code
    except LeaktraceError as error:
        return _complain_of(error)
    except BrokenPipeError:
        # The reader has ended (`| head`): exit quietly. Nothing may be flushed into the pipe later.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MemoryError:
        return _complain_of(no_memory())
    except ImportError as error:
        return _complain_of(not_loaded(error))
    except OSError as error:
        known = shortage(error)
        if known is not None:
            return _complain_of(known)
        _complain(*unexplained(error))
        return 1
    except (KeyboardInterrupt, click.Abort):
        _complain("interrupted twice: there is no final report", "press Ctrl-C once to get one")
        return 130


def _in_our_words(error: click.ClickException) -> tuple[str, str]:
    """What the parser refused, and what to do."""
    advice = see_help(error.ctx if isinstance(error, click.UsageError) else None)
    match error:
        case click.NoSuchOption():
            if error.option_name.lstrip("-").isdigit():
                return f"{error.option_name} is no option, and no number here is negative", advice
            if meant := get_close_matches(error.option_name, error.possibilities or (), 1):
                advice = f"did you mean {meant[0]}? If not, {advice}"
            return f"there is no option {error.option_name}", advice
        case click.BadOptionUsage() if "requires an argument" in error.message:
            return f"{error.option_name} needs a value", advice
        case click.MissingParameter() if error.param is not None:
            return f"{name_of(error.param)} is missing", advice
        case click.BadParameter() if error.param is not None:
            return f"{name_of(error.param)}: {error.message.rstrip('.')}", advice
        case _:
            return error.format_message().rstrip("."), advice


def _complain_of(error: LeaktraceError) -> int:
    _complain(error.message, error.hint)
    return error.exit_code


def _complain(message: str, advice: str) -> None:
    notify(message)
    hint(advice)
