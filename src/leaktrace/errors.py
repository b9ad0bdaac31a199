"""The one error tree: what happened, what to do about it, and how leaktrace exits.

Every error a user can cause is raised as a subclass of `LeaktraceError`, propagates unchanged to
`cli/main.py`, and is printed there as two lines. Nothing else prints errors or exits.
"""

from __future__ import annotations

import os

AS_ROOT = "run as root: sudo leaktrace …"
AS_ROOT_OR_DOCTOR = f"{AS_ROOT}; `leaktrace doctor` shows what is missing"

# include/linux/errno.h: codes for use within the kernel, which reach programs nevertheless.
_KERNEL_ERRORS = {
    512: "interrupted (ERESTARTSYS)",
    513: "interrupted (ERESTARTNOINTR)",
    514: "interrupted (ERESTARTNOHAND)",
    515: "the kernel does not know this request (ENOIOCTLCMD)",
    516: "interrupted (ERESTART_RESTARTBLOCK)",
    517: "the kernel asks to retry later (EPROBE_DEFER)",
    524: "the kernel does not support it (ENOTSUPP)",
    525: "a buffer or request is too small (ETOOSMALL)",
    527: "the kernel does not support this type (EBADTYPE)",
}


def reason(code: int) -> str:
    """An errno in words, including those that the C library doesn't know."""
    known = _KERNEL_ERRORS.get(code)
    return known or (os.strerror(code) if code < 512 else f"kernel error {code}")


def system_error(code: int, subject: str = "") -> OSError:
    """The OSError for an errno that a system call returned."""
    return OSError(code, reason(code), subject) if subject else OSError(code, reason(code))


class LeaktraceError(Exception):
    """What happened (`message`, one line) and what to do (`hint`, one line)."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(LeaktraceError):
    """The command line is wrong, or its options contradict each other."""

    exit_code = 2


class EnvironmentUnfitError(LeaktraceError):
    """A privilege, a kernel feature, a required package or a resource is missing."""

    exit_code = 3


class TargetError(LeaktraceError):
    """The process to trace has ended, never existed, or can't be traced."""

    exit_code = 4


class TargetAccessError(TargetError):
    """The process to trace can't be examined because a privilege is missing: `capability`, if one
    capability is enough."""

    exit_code = EnvironmentUnfitError.exit_code

    def __init__(self, message: str, hint: str = "", capability: str = "") -> None:
        super().__init__(message, hint)
        self.capability = capability


class ProgramError(LeaktraceError):
    """The BPF program didn't compile, load or attach."""


class OutputError(LeaktraceError):
    """The report can't be written to the requested place."""


class NothingTracedError(LeaktraceError):
    """A signal came before tracing began. The exit code is that of a shell: 128 + SIGINT."""

    exit_code = 130


class ObjectFileError(LeaktraceError):
    """A file is not a readable ELF object, or lacks what was requested from it."""


class NotAnObjectError(ObjectFileError):
    """A file is certainly not an ELF object: it has another format, or is not a regular file."""


def not_permitted() -> EnvironmentUnfitError:
    """bpf(2) needs more privileges."""
    return EnvironmentUnfitError(
        "the kernel does not permit loading BPF programs",
        AS_ROOT_OR_DOCTOR,
    )
