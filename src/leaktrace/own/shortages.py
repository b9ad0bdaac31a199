"""Resources that ran out, and what to do about it: memory, files, processes, disk space."""

from __future__ import annotations

import errno
import os
import resource

from leaktrace.errors import EnvironmentUnfitError, LeaktraceError

_MORE_FILES = "raise the limit: ulimit -n 4096"
_MORE_MEMORY = "raise the limit: ulimit -v unlimited"
# With less, some library fails to load, with a wrong error message or none.
_LEAST_ADDRESS_SPACE_BYTES = 128 << 20
_LEAST_FILES = 64
_THREADS = "OPENBLAS_NUM_THREADS"


def shortage(error: OSError) -> EnvironmentUnfitError | None:
    """The resource that a failed call lacked, as an error; None for other failures."""
    match error.errno:
        case errno.EMFILE:
            return EnvironmentUnfitError("too many open files", _MORE_FILES)
        case errno.ENFILE:
            return EnvironmentUnfitError(
                "too many open files on this machine", "raise the limit: sysctl fs.file-max"
            )
        case errno.ENOMEM:
            return no_memory()
        case errno.EAGAIN:
            return EnvironmentUnfitError(
                f"a system call failed: {error.strerror}",
                "there may be too many processes; raise the limit: ulimit -u",
            )
        case None if address_space_bytes() is not None:  # from dlopen(3), which sets no errno
            return EnvironmentUnfitError(f"a library can't be loaded: {error}", _MORE_MEMORY)
        case _:
            return None


def no_memory() -> EnvironmentUnfitError:
    """The error for a MemoryError, and for ENOMEM."""
    limit = address_space_bytes()
    if limit is None:
        return EnvironmentUnfitError("there is not enough memory", "free some memory; see free(1)")
    return EnvironmentUnfitError(
        f"the memory limit of this shell is too low (ulimit -v {limit >> 10})",
        _MORE_MEMORY,
    )


def shortage_behind(error: LeaktraceError) -> EnvironmentUnfitError | None:
    """The same for an error that was caused by a failed call."""
    cause = error.__cause__
    return shortage(cause) if isinstance(cause, OSError) else None


def advice_about_memory() -> str:
    """What to do after a failure of something that takes much memory; "" where memory is not
    limited."""
    return "" if address_space_bytes() is None else _MORE_MEMORY


def not_loaded(error: ImportError) -> EnvironmentUnfitError:
    """The error for a part of leaktrace, or a package it needs, that can't be imported."""
    lines = str(error).strip().splitlines() or ["unknown reason"]
    return EnvironmentUnfitError(
        f"leaktrace can't be loaded: {lines[-1].strip()}",
        advice_about_memory() or "reinstall it with its dependencies: pip install .",
    )


def unexplained(error: OSError) -> tuple[str, str]:
    """What to say of a failed call that nothing else explains, and what to do."""
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        advice = "free some space where the output goes, or write it elsewhere"
        return f"can't write: {reason}", advice
    return f"a system call failed: {reason}", "check the limits of this shell: ulimit -a"


def address_space_bytes() -> int | None:
    """How much memory this process may map (RLIMIT_AS); None: any."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def require_room() -> None:
    """Raise EnvironmentUnfitError if the limits of this process are too low to start."""
    limit = address_space_bytes()
    if limit is not None and limit < _LEAST_ADDRESS_SPACE_BYTES:
        raise no_memory()
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if files != resource.RLIM_INFINITY and files < _LEAST_FILES:
        raise EnvironmentUnfitError(f"this shell allows only {files} open files", _MORE_FILES)


def load_numpy() -> None:
    """Import numpy without the threads of its linear algebra library, one per CPU.

    leaktrace doesn't use them, they take memory, and where no thread can be started that library
    sends SIGINT to the process.
    """
    if _THREADS in os.environ:
        import numpy as _  # noqa: PLC0415

        return
    os.environ[_THREADS] = "1"
    try:
        import numpy as _  # noqa: F401, PLC0415
    finally:
        # A command that leaktrace starts gets the environment that leaktrace was given.
        del os.environ[_THREADS]
