"""What the system has no more of, and what to do about it: memory, files, processes, space."""

from __future__ import annotations

import errno
import os
import resource

from leaktrace.errors import EnvironmentUnfitError, LeaktraceError

_MORE_FILES = "raise the limit: ulimit -n 4096"
_MORE_MEMORY = "raise the limit: ulimit -v unlimited"
# With less than that not everything can be loaded, and what comes of it is told by nobody or wrong.
_LEAST_ADDRESS_SPACE_BYTES = 128 << 20
_LEAST_FILES = 64
_THREADS = "OPENBLAS_NUM_THREADS"


def shortage(error: OSError) -> EnvironmentUnfitError | None:
    """What lacks where a call fails for want of it; None for other errors."""
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
                f"the system refused: {error.strerror}",
                "are there too many processes? Raise the limit: ulimit -u",
            )
        case None if address_space_bytes() is not None:  # a library that can't be loaded
            return EnvironmentUnfitError(f"the system refused: {error}", _MORE_MEMORY)
        case _:
            return None


def no_memory() -> EnvironmentUnfitError:
    """What to say of a MemoryError, and of ENOMEM."""
    limit = address_space_bytes()
    if limit is None:
        return EnvironmentUnfitError("there is not enough memory", "free some; free(1) shows it")
    return EnvironmentUnfitError(
        f"there is not enough memory within the limit of this shell (ulimit -v {limit >> 10})",
        _MORE_MEMORY,
    )


def shortage_behind(error: LeaktraceError) -> EnvironmentUnfitError | None:
    """The same for an error that a failed call has led to."""
    cause = error.__cause__
    return shortage(cause) if isinstance(cause, OSError) else None


def advice_about_memory() -> str:
    """What to do where something failed that takes much memory; "" if as much as there is may be
    used."""
    return "" if address_space_bytes() is None else _MORE_MEMORY


def not_loaded(error: ImportError) -> EnvironmentUnfitError:
    """A part of leaktrace, or of what it needs, that can't be imported."""
    lines = str(error).strip().splitlines() or ["unknown reason"]
    return EnvironmentUnfitError(
        f"leaktrace can't be loaded: {lines[-1].strip()}",
        advice_about_memory() or "reinstall it, with what it needs: pip install .",
    )


def advice_for(error: OSError) -> str:
    """What to do about an error that no other code explains."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "free some space where the output goes, or send it elsewhere"
    return "see the limits of this shell: ulimit -a"


def address_space_bytes() -> int | None:
    """How much memory this process may map (RLIMIT_AS); None: any."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def require_room() -> None:
    """Raises EnvironmentUnfitError where the limits of this process don't let it get far."""
    limit = address_space_bytes()
    if limit is not None and limit < _LEAST_ADDRESS_SPACE_BYTES:
        raise no_memory()
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if files != resource.RLIM_INFINITY and files < _LEAST_FILES:
        raise EnvironmentUnfitError(f"no more than {files} files may be open", _MORE_FILES)


def load_numpy() -> None:
    """Import numpy, and keep its library for linear algebra from starting a thread for each CPU, of
    which nothing here makes use: they take memory, and where no thread may be started that library
    interrupts the process."""
    if _THREADS in os.environ:
        import numpy as _  # noqa: PLC0415

        return
    os.environ[_THREADS] = "1"
    try:
        import numpy as _  # noqa: F401, PLC0415
    finally:
        # A command that leaktrace starts has the environment that leaktrace was given.
        del os.environ[_THREADS]
