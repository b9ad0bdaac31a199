"""Objects that could not be examined although they may be allocators."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from leaktrace.errors import LeaktraceError, ObjectFileError, TargetError
from leaktrace.options import ObjectChoice
from leaktrace.printable import printable
from leaktrace.process.probes.program_files import WrongMachineError
from leaktrace.runtimes.go.program import open_go_program
from leaktrace.targets.mapped_files import UnreachableFileError


class OnlyGoError(TargetError):
    """A Go program, whose allocator is Go's own: there is nothing to hook."""


class PassedOver(NamedTuple):
    """An object, by its path as the target sees it, and why it could not be examined."""

    path: str
    error: ObjectFileError


def _go_version(pid: int) -> str | None:
    """The version of Go that a process was built with, None where it has no Go code."""
    try:
        return printable(open_go_program(pid).version.text)
    except LeaktraceError:
        return None


def notes_of(passed: Sequence[PassedOver]) -> Iterator[str]:
    """Notes for a report, one per reason."""
    by_reason: defaultdict[str, list[str]] = defaultdict(list)
    for one in passed:
        path = printable(one.path)
        by_reason[one.error.message.removeprefix(path).strip()].append(path)
    for reason, paths in by_reason.items():
        more = f" (and {len(paths) - 1:,} more)" if len(paths) > 1 else ""
        yield (
            f"{paths[0]}{more} {reason}: if it is an allocator, what it allocates is not in "
            "these figures"
        )


def nothing_to_hook(
    subject: str, chosen: ObjectChoice, passed: Sequence[PassedOver], pid: int | None = None
) -> LeaktraceError:
    """The error for a target in which no allocator was found; `pid`: of one that runs."""
    for one in passed:
        if isinstance(one.error, UnreachableFileError) and one.error.capability is not None:
            return one.error.as_access_error()
    prefix = chosen.symbols_prefix
    defines = f"defines {prefix}malloc and {prefix}free"
    message = f"no object of {subject} {defines}"
    if pid is not None and not prefix and (go := _go_version(pid)):
        return OnlyGoError(
            f"{subject} is a Go program ({go}), whose allocator is Go's own: {message}",
            f"`leaktrace go -p {pid} 5` shows goroutines that leak, and the heap (-f pprof: as a "
            "file); --faults finds growth by stack",
        )
    if passed:
        first = passed[0].error
        if isinstance(first, WrongMachineError):
            return TargetError(first.message, first.hint)
        more = f", nor {len(passed) - 1:,} others" if len(passed) > 1 else ""
        return ObjectFileError(
            f"no object of {subject} that could be examined {defines}: {first.message}{more}",
            first.hint or "try --faults, which needs no symbols",
        )
    if prefix:
        return ObjectFileError(
            message, "both are needed, under exactly these names; --faults needs no symbols"
        )
    return ObjectFileError(
        message,
        "Go? `leaktrace go -p PID` shows its goroutines; a stripped static program? Try --faults, "
        "which needs no symbols; for an allocator with other names, --symbols-prefix",
    )
