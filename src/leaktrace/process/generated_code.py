"""Code that a language runtime makes while the program runs: how its functions get names, and how
stacks get through it. Each runtime has its own way; a report names the one that works.

Tried with OpenJDK 17, Node 20, CPython 3.12 and 3.13.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from leaktrace.site import Frame, Stack, StackEnd
from leaktrace.symbols.objects import MADE_AT_RUN_TIME
from leaktrace.targets.mappings import Mapping

_NO_PERF_MAP = "is not there"  # symbols/jit.py: why code has no name


@dataclass(frozen=True)
class Runtime:
    """A language runtime, recognized by the name of a file of code that it has mapped."""

    name: str
    file: re.Pattern[str]
    names: str  # what gives names to its code; {pid} stands for the process
    callers: str = ""  # what lets stacks go on through its code
    names_are_of_a_moment: bool = False  # of what was compiled until then
    interpreter: str = ""  # its function that runs code which is not compiled


RUNTIMES = (
    Runtime(
        "Java",
        re.compile(r"libjvm\.so"),
        "run `jcmd {pid} Compiler.perfmap` (JDK 17 or newer), and again for what it compiles later",
        "start it with java -XX:+PreserveFramePointer",
        names_are_of_a_moment=True,
    ),
    Runtime(
        "V8",
        re.compile(r"node|nodejs|libnode\.so[.\d]*"),
        "start it with node --perf-basic-prof",
    ),
    Runtime(
        "Python",
        re.compile(r"(?:libpython|python)3\.(?:1[2-9]|[2-9]\d)(?:\.so[.\d]*)?"),
        "start it with python -X perf, or PYTHONPERFSUPPORT=1",
        interpreter="_PyEval_EvalFrameDefault",
    ),
)
_INTERPRETERS = frozenset(one.interpreter for one in RUNTIMES if one.interpreter)


class GeneratedCode:
    """What the stacks of a report show of such code."""

    def __init__(self) -> None:
        self.begin_report()

    def begin_report(self) -> None:
        """Names may have been written since the last report."""
        self._unnamed: set[str] = set()  # why
        self._is_named = False
        self._ends_stacks = False
        self._interpreters: set[str] = set()

    def see(self, stack: Stack) -> None:
        """A stack that a report needs."""
        for frame in stack.frames:
            if not _is_generated(frame):
                if frame.function in _INTERPRETERS:
                    self._interpreters.add(frame.function)
            elif frame.unknown is None:
                self._is_named = True
            else:
                self._unnamed.add(frame.unknown)
        is_broken = stack.end is StackEnd.BROKEN and bool(stack.frames)
        self._ends_stacks |= is_broken and _is_generated(stack.frames[-1])

    def notes(self, pid: int, mappings: Sequence[Mapping]) -> Iterator[str]:
        """What to do about it, for the runtimes that the process has mapped."""
        if not (self._unnamed or self._ends_stacks or self._interpreters):
            return
        for runtime in _runtimes_in(mappings):
            if runtime.interpreter:
                if runtime.interpreter in self._interpreters and not self._is_named:
                    yield (
                        f"stacks show the functions of the {runtime.name} interpreter; for those "
                        f"of the program, {runtime.names}"
                    )
                continue
            is_missing = any(why.endswith(_NO_PERF_MAP) for why in self._unnamed)
            if is_missing or (self._unnamed and runtime.names_are_of_a_moment):
                yield (
                    f"code that {runtime.name} compiled has no names: "
                    + runtime.names.format(pid=pid)
                )
            if self._ends_stacks and runtime.callers:
                yield (
                    f"stacks end in code that {runtime.name} compiled, because it keeps no frame "
                    f"pointer: {runtime.callers}"
                )


def _is_generated(frame: Frame) -> bool:
    if frame.module is not None:
        return False
    return frame.unknown is None or frame.unknown.startswith(MADE_AT_RUN_TIME)


def _runtimes_in(mappings: Sequence[Mapping]) -> list[Runtime]:
    files = {
        PurePosixPath(one.path.removesuffix(" (deleted)")).name
        for one in mappings
        if one.is_file and one.is_executable
    }
    return [one for one in RUNTIMES if any(one.file.fullmatch(file) for file in files)]
