"""Errors on their way out: each becomes two lines on stderr and an exit code."""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Callable, Iterable
from typing import Any

import click

from leaktrace.errors import LeaktraceError
from leaktrace.notices import hint, tell
from leaktrace.own.shortages import advice_for, no_memory, not_loaded, shortage


def guarded(action: Callable[[], Any], commands: Iterable[str]) -> int:
    """Run, and return the exit code. What went wrong is told in two lines: what happened, and what
    to do. `commands` are the names that a first word may have been meant for."""
    try:
        result = action()
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        message = re.sub(
            r"not a valid (?:integer|float) range", "not a number", error.format_message()
        )
        _complain(message.rstrip("."), _usage_hint(error, commands))
        return error.exit_code
    except LeaktraceError as error:
        return _complain_of(error)
    except BrokenPipeError:
        # The reader is gone (`| head`): the quiet end. Nothing may be flushed into the pipe later.
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
        _complain(f"the system refused: {error.strerror or error}", advice_for(error))
        return 1
    except (KeyboardInterrupt, click.Abort):
        _complain("interrupted again: no last report", "one Ctrl-C ends a run in order")
        return 130


def _usage_hint(error: click.ClickException, commands: Iterable[str]) -> str:
    """What may have been meant."""
    text = error.format_message()
    if "unexpected extra argument" in text:
        return "one process at a time: leaktrace doctor -p PID"
    for name in commands:
        wrong = re.search(r"Invalid value for '\[INTERVAL\]': '(.*?)'", text)
        if wrong and difflib.get_close_matches(wrong[1], [name]):
            return f"did you mean leaktrace {name}?"
        if wrong and "/" in wrong[1]:
            return f"to start a command: leaktrace -- {wrong[1]}"
    if "Invalid value for '-p'" in text:
        return "give one process id: pgrep -n NAME finds the newest"
    return "see leaktrace --help"


def _complain_of(error: LeaktraceError) -> int:
    _complain(error.message, error.hint)
    return error.exit_code


def _complain(message: str, advice: str) -> None:
    tell(message)
    hint(advice)
