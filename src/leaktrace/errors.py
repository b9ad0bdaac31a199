"""The one error tree: what happened, what to do about it, and how leaktrace exits.

Every error a user can cause is raised as a subclass of `LeaktraceError`, travels untouched to
`cli.main`, and is printed there as two lines. Nothing else prints or exits.
"""

from __future__ import annotations

import os

AS_ROOT = "run as root: sudo leaktrace …"
AS_ROOT_OR_DOCTOR = f"{AS_ROOT}; `leaktrace doctor` shows what is missing"

# include/linux/errno.h: what the kernel says to itself, and lets out to programs all the same.
_KERNEL_ERRORS = {
    512: "interrupted (ERESTARTSYS)",
    513: "interrupted (ERESTARTNOINTR)",
    514: "interrupted (ERESTARTNOHAND)",
    515: "the kernel does not know this request (ENOIOCTLCMD)",
    516: "interrupted (ERESTART_RESTARTBLOCK)",
    517: "the kernel wants to be asked again later (EPROBE_DEFER)",
    524: "the kernel does not support it (ENOTSUPP)",
    525: "a buffer or request is too small (ETOOSMALL)",
    527: "the kernel does not support this type (EBADTYPE)",
}


def reason(code: int) -> str:
    """An errno in words, also one that has none in the C library."""
    known = _KERNEL_ERRORS.get(code)
    return known or (os.strerror(code) if code < 512 else f"the kernel's error {code}")


def system_error(code: int, subject: str = "") -> OSError:
    """An OSError of an errno that a system call has returned, with its words."""
    return OSError(code, reason(code), subject) if subject else OSError(code, reason(code))


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


class TargetAccessError(TargetError):
    """The process to trace can't be looked at, for want of a privilege: `capability`, where one
    would do."""

    exit_code = EnvironmentUnfitError.exit_code

    def __init__(self, message: str, hint: str = "", capability: str = "") -> None:
        super().__init__(message, hint)
        self.capability = capability


class ProgramError(LeaktraceError):
    """The BPF program didn't compile, load or attach."""


class OutputError(LeaktraceError):
    """The report can't be written where it was asked to go."""


class NothingTracedError(LeaktraceError):
    """A signal came before tracing began. As the shell has it for an interrupt, 128 + SIGINT."""

    exit_code = 130


class ObjectFileError(LeaktraceError):
    """A file is not an ELF object that can be read, or lacks what was asked of it."""


class NotAnObjectError(ObjectFileError):
    """A file is certainly no ELF object: it is of another format, or no plain file."""


def not_permitted() -> EnvironmentUnfitError:
    """The kernel wants more privileges for bpf(2)."""
    return EnvironmentUnfitError(
        "the kernel does not permit loading BPF programs",
        AS_ROOT_OR_DOCTOR,
    )
