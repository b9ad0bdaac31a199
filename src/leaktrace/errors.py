"""The one error tree: what happened, what to do about it, and how leaktrace exits.

Every error a user can cause is raised as a subclass of `LeaktraceError`, travels untouched to
`cli.main`, and is printed there as two lines. Nothing else prints or exits.
"""

from __future__ import annotations


class LeaktraceError(Exception):
    """What happened (`message`, one line) and what to do (`hint`, one line)."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(LeaktraceError):
    """The command line asks for something that can't be."""

    exit_code = 2


class EnvironmentUnfitError(LeaktraceError):
    """A privilege, a kernel feature, a needed package or a resource is missing."""

    exit_code = 3


class TargetError(LeaktraceError):
    """The process to trace is gone, never was, or can't be traced."""

    exit_code = 4


class ProgramError(LeaktraceError):
    """The BPF program didn't compile, load or attach."""


class OutputError(LeaktraceError):
    """The report can't be written where it was asked to go."""


class NothingTracedError(LeaktraceError):
    """A signal came before tracing began. As the shell has it for an interrupt, 128 + SIGINT."""

    exit_code = 130


class ObjectFileError(LeaktraceError):
    """A file is not an ELF object that can be read, or lacks what was asked of it."""


def not_permitted() -> EnvironmentUnfitError:
    """The kernel wants more privileges for bpf(2)."""
    return EnvironmentUnfitError(
        "the kernel does not permit loading BPF programs",
        "run as root: sudo leaktrace …; `leaktrace doctor` tells what is missing",
    )
