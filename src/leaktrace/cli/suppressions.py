"""--suppressions: files of patterns in LeakSanitizer's format."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from leaktrace.errors import UsageError
from leaktrace.notices import notify
from leaktrace.options import Suppression
from leaktrace.printable import printable

_LARGEST_BYTES = 4 << 20
_EXAMPLE = "a line is leak:PATTERN, as for LeakSanitizer, or a comment (#)"
# Files are often shared with other sanitizers, whose lines are of no concern here.
_OF_OTHERS = {
    # AddressSanitizer
    *("interceptor_name", "interceptor_via_fun", "interceptor_via_lib", "odr_violation"),
    "alloc_dealloc_mismatch",
    # ThreadSanitizer
    *("race", "race_top", "thread", "mutex", "signal", "deadlock", "called_from_lib"),
    # UndefinedBehaviorSanitizer
    *("alignment", "bool", "bounds", "enum", "function", "null", "object-size", "shift", "vptr"),
    *("implicit-conversion", "signed-integer-overflow", "unsigned-integer-overflow", "undefined"),
    *("vptr_check", "float-cast-overflow", "float-divide-by-zero", "integer-divide-by-zero"),
    # MemorySanitizer and valgrind's wrappers of the above have no further kinds
}


def checked_suppressions(asked: dict[str, Any]) -> tuple[Suppression, ...]:
    """The patterns of all files that were named. Raises UsageError."""
    files: Sequence[Path] = asked["suppressions"]
    found = tuple(one for file in files for one in read_suppressions(file))
    if files and asked["format_name"] == "memleak":
        raise UsageError(
            "-f memleak can't be combined with --suppressions: it can't say what is left out",
            "use -f text or -f json",
        )
    return found


def read_suppressions(file: Path) -> tuple[Suppression, ...]:
    """The patterns of one file. Raises UsageError if it can't be read, or has a line of another
    kind."""
    try:
        with file.open("rb") as stream:
            content = stream.read(_LARGEST_BYTES + 1)
    except OSError as error:
        raise UsageError(
            f"--suppressions {printable(str(file))} can't be read: {error.strerror or error}",
            f"name a file of patterns: {_EXAMPLE}",
        ) from None
    if len(content) > _LARGEST_BYTES:
        raise UsageError(
            f"--suppressions {printable(str(file))} is larger than {_LARGEST_BYTES >> 20} MiB",
            f"name a file of patterns: {_EXAMPLE}",
        )
    ignored: dict[str, int] = {}
    found = tuple(_parsed(content.decode("utf-8", "surrogateescape"), file, ignored))
    if ignored:
        kinds = ", ".join(ignored)
        count = sum(ignored.values())
        lines = "one line is" if count == 1 else f"{count} lines are"
        notify(f"{printable(str(file))}: {lines} for other sanitizers, and ignored ({kinds})")
    return found


def _parsed(text: str, file: Path, ignored: dict[str, int]) -> Iterator[Suppression]:
    for number, line in enumerate(text.split("\n"), start=1):
        words = line.strip()
        if not words or words.startswith("#"):
            continue
        kind, colon, pattern = words.partition(":")
        where = f"{printable(str(file))}, line {number}"
        if not colon or kind not in {"leak", *_OF_OTHERS}:
            raise UsageError(f"{where}: '{printable(words, 60)}' is no suppression", _EXAMPLE)
        if kind != "leak":
            ignored[kind] = ignored.get(kind, 0) + 1
            continue
        if not pattern.strip("^*$ "):
            raise UsageError(
                f"{where}: '{printable(words, 60)}' would suppress every site",
                "name a function, a source file or a module: leak:libfoo.so",
            )
        yield Suppression(pattern, where)
