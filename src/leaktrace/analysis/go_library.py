"""Which functions of a Go stack are the program's, and which are those of Go's own library."""

from __future__ import annotations

from collections.abc import Sequence


def innermost_own(lines: Sequence[tuple[str, str]]) -> int | None:
    """The first of some functions, the innermost first, that isn't of Go's library; None if all
    are. Each is a name and a file, "" if that is unknown.

    The library's source is below one directory, and the runtime's, with which each stack begins,
    is in it. Where no function of the runtime is known by its file (a build with -trimpath, a stack
    that was cut off), none is known to be of the library.
    """
    library = {
        file.rpartition("/runtime/")[0] + "/"
        for function, file in lines
        if function.startswith("runtime.") and "/src/runtime/" in file
    }
    others = (at for at, (_, file) in enumerate(lines) if not file.startswith(tuple(library)))
    return next(others, None)
