"""--pair: functions of the target that are traced in addition to malloc, or instead of it."""

from __future__ import annotations

from typing import Any

import click

from leaktrace.cli.values import name_of, refuse_given
from leaktrace.errors import UsageError
from leaktrace.options import MOST_ARGUMENTS, MOST_PAIRS, By, Pair

_FORM = "[OBJ:]ALLOC:FREE[:SIZE[:HANDLE]]"
_EXAMPLES = "for example SSL_new:SSL_free, pool_get:pool_put:2, libplugin.so:plug_new:plug_free"
# Hooked without --pair. A function has one probe per instruction that leaktrace reads.
_MALLOCS = {
    *("malloc", "calloc", "realloc", "reallocarray", "posix_memalign", "aligned_alloc"),
    *("memalign", "valloc", "pvalloc", "mmap", "munmap", "mremap"),
    *("shmat", "shmdt", "brk", "sbrk"),
}


# Generic in recent versions of click only.
class FunctionPair(click.ParamType):  # type: ignore[type-arg]
    """A `Pair`, written [OBJ:]ALLOC:FREE[:SIZE[:HANDLE]]."""

    name = "pair"

    def convert(
        self,
        value: Any,  # noqa: ANN401 (a word)
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Pair:
        """Raises UsageError."""
        option = name_of(param)
        if "::" in value:
            raise UsageError(
                f"{option} takes {_FORM}, but got '{value}'",
                "write C++ functions as the object's symbol table has them: nm -D FILE",
            )
        words = value.split(":")
        names = [word for word in words if not _is_number(word)]
        numbers = words[len(names) :]
        if len(names) not in (2, 3) or len(numbers) > 2 or words[: len(names)] != names:
            raise UsageError(f"{option} takes {_FORM}, but got '{value}'", _EXAMPLES)
        if not all(names):
            raise UsageError(f"{option} {value}: a name is missing", f"{_FORM}, {_EXAMPLES}")
        size = _argument(option, value, numbers[0], 0) if numbers else 0
        handle = _argument(option, value, numbers[1], 1) if len(numbers) > 1 else 1
        chosen = names[0] if len(names) == 3 else None
        return Pair(names[-2], names[-1], size, handle, chosen)


def _is_number(word: str) -> bool:
    return word.lstrip("+-").isdecimal()


def _argument(option: str, value: str, word: str, least: int) -> int:
    number = int(word)
    if not least <= number <= MOST_ARGUMENTS:
        what = "SIZE" if least == 0 else "HANDLE"
        none = ", or 0 for no size" if least == 0 else ""
        raise UsageError(
            f"{option} {value}: {what} is the number of an argument, 1 to {MOST_ARGUMENTS}{none}",
            "only arguments that are passed in registers can be read",
        )
    return number


def checked_pairs(asked: dict[str, Any]) -> tuple[Pair, ...]:
    """The pairs that were asked for. Raises UsageError if they contradict each other or other
    options."""
    pairs: tuple[Pair, ...] = asked["pair"]
    if asked["no_malloc"]:
        if not pairs and not asked["fds"]:
            raise UsageError(
                "--no-malloc needs --pair or --fds: nothing is left to trace",
                "add --fds, or --pair with two functions, such as SSL_new:SSL_free",
            )
        _refuse_without_malloc(asked)
    if not pairs:
        return ()
    if len(pairs) > MOST_PAIRS:
        raise UsageError(
            f"--pair is given {len(pairs)} times, and can be given {MOST_PAIRS} times",
            "start another leaktrace for the others",
        )
    if asked["format_name"] == "memleak":
        raise UsageError(
            "-f memleak can't be combined with --pair: it has no place for a second allocator",
            "use -f text or -f json",
        )
    _refuse_repeated(pairs)
    for one in pairs:
        _refuse_malloc(one, asked)
    return pairs


def _refuse_repeated(pairs: tuple[Pair, ...]) -> None:
    seen: dict[tuple[str | None, str], Pair] = {}
    for one in pairs:
        if one.allocate == one.release:
            raise UsageError(
                f"--pair {one.name}:{one.release}: both functions are the same",
                f"{_FORM}, {_EXAMPLES}",
            )
        others = [
            other
            for (chosen, allocate), other in seen.items()
            if allocate == one.allocate and (None in (chosen, one.object) or chosen == one.object)
        ]
        if others:
            raise UsageError(
                f"--pair {one.allocate}: the function is given twice, with {others[0].release} "
                f"and with {one.release}",
                "what a function returns is released by one function; leave one pair out",
            )
        seen[one.object, one.allocate] = one


def _refuse_malloc(one: Pair, asked: dict[str, Any]) -> None:
    prefix = asked["symbols_prefix"]
    if not asked["no_malloc"] and one.allocate in {prefix + name for name in _MALLOCS}:
        raise UsageError(
            f"--pair {one.allocate}: this function is traced without --pair",
            "leave the pair out, or add --no-malloc",
        )


def _refuse_without_malloc(asked: dict[str, Any]) -> None:
    """Options that are about malloc alone: what pairs allocate is never sampled or left out."""
    given = {
        "-s": asked["sample_rate"] > 1,
        "--sample-bytes": asked["sample_bytes"] is not None,
        "-z": asked["min_size"] is not None,
        "-Z": asked["max_size"] is not None,
        "-O": asked["obj"] is not None,
        "--symbols-prefix": asked["symbols_prefix"],
        "--by process": asked["by"] == By.PROCESS,
        "--max-overhead": asked["max_overhead_percent"] is not None,
    }
    what = "pairs" if asked["pair"] else "file descriptors"
    refuse_given(given, "--no-malloc", f"it is about malloc, and not about {what}")
