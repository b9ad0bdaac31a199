"""What is to be traced: exactly one process, command, or the kernel."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import Any

from leaktrace.cli.kernel import kernel_target
from leaktrace.cli.one_target import refuse_processes_as_interval
from leaktrace.errors import UsageError
from leaktrace.notices import tell
from leaktrace.options import CommandTarget, ProcessTarget, Target

_SHELL_WORDS = {"|", "||", "&", "&&", ";", "<", ">", ">>", "2>&1"}


def target_of(asked: dict[str, Any], words: Sequence[str]) -> Target:
    """The target asked for. Raises UsageError."""
    given = [asked["pid"] is not None, asked["command"] is not None, bool(words), asked["kernel"]]
    if sum(given) != 1:
        raise UsageError(
            "say what to trace: exactly one of -p PID, -c CMD, -- CMD ARGS, or --kernel",
            "for example: leaktrace -p 4242; see leaktrace --help",
        )
    pass_exit_code = asked["exit_code"] == "child"
    if pass_exit_code and not words and asked["command"] is None:
        raise UsageError(
            "--exit-code child is for a command that leaktrace starts",
            "leave it out, or use -c CMD",
        )
    in_kernel = kernel_target(asked)
    pid = asked["pid"] if in_kernel is None else asked["task"]
    if pid is not None:
        refuse_processes_as_interval(pid, asked["interval"], asked["count"])
    if in_kernel is not None:
        return in_kernel
    if asked["pid"] is not None:
        return ProcessTarget(asked["pid"])
    if words:
        return CommandTarget(tuple(words), pass_exit_code)
    try:
        argv = tuple(shlex.split(asked["command"]))
    except ValueError as error:
        raise UsageError(
            f"the command can't be split into words: {error}", "check its quotes"
        ) from None
    if argv and re.match(r"[A-Za-z_]\w*=", argv[0]):
        raise UsageError(
            f"no shell runs the command: {argv[0]} sets no variable",
            f"use env(1): -c 'env {asked['command']}'",
        )
    if _SHELL_WORDS.intersection(argv):
        tell(
            "no shell runs the command; what looks like shell syntax is passed to it as "
            "it is (a shell would be a process of its own: -c \"sh -c 'exec …'\")",
        )
    if not argv:
        raise UsageError("the command is empty", "give a program to run: -c './server -v'")
    return CommandTarget(argv, pass_exit_code)
