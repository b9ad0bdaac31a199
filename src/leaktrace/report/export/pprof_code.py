"""The code of a pprof profile: strings, functions, mappings and locations, each stored once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from leaktrace.printable import printable
from leaktrace.report.export.sites import STACK_NOT_KNOWN, frame_name
from leaktrace.site import Frame, Stack

_KERNEL = "kernel"  # the module of the kernel's own frames…
_KERNEL_FILE = "[kernel.kallsyms]"  # …and what perf and pprof call it
_SIGNAL_FRAME = "<signal handler called>"
# How much address space each file is given. A report doesn't say how large files are, and pprof
# takes two mappings for the same only if their sizes are equal. So it must not depend on which
# addresses happen to be in a report. Above the kernel, this much is always left.
_WINDOW = 1 << 29
_ADDRESSES = 1 << 64


class Code:
    """Fills the tables of a profile. Ids are numbers from 1; 0 means none."""

    def __init__(self, profile: Any) -> None:  # noqa: ANN401 (its class is made at run time)
        self._profile = profile
        self._texts: dict[str, int] = {"": 0}
        self._functions: dict[tuple[str, str], int] = {}
        self._mappings: dict[tuple[str, str | None, int | None], int] = {}
        self._places: dict[tuple[Any, ...], int] = {}
        # By identity of frames, which stacks share; they live as long as the report.
        self._known: dict[int, int] = {}
        self._equals: dict[tuple[Any, ...], int] = {}
        self._reached: dict[int, int] = {}  # the highest offset in each mapping that has a start
        self._first: Callable[[str], bool] | None = None

    def text(self, text: str) -> int:
        """The index of a text that is printable."""
        return self._texts.setdefault(text, len(self._texts))

    def locations(self, stack: Stack) -> list[int]:
        """The locations of a stack, leaf first. Inlined frames are lines of one location."""
        found: list[int] = []
        inlined: list[Frame] = []
        is_return_address = True
        for frame in stack.frames:
            if frame.inlined:
                inlined.append(frame)
                continue
            if inlined:
                number = self._equal((*inlined, frame), is_return_address)
                inlined = []
            else:
                number = self._single(frame, is_return_address)
            found.append(number)
            # A signal interrupts a function before an instruction, not after a call.
            is_return_address = frame.function != _SIGNAL_FRAME
        if inlined:  # into a frame that is missing
            found.append(self._equal(inlined, is_return_address))
        return found or [self._unknown()]

    def put_first(self, is_first: Callable[[str], bool]) -> None:
        """Which file is the program: pprof takes the first mapping for it."""
        self._first = is_first

    def finished(self) -> Any:  # noqa: ANN401
        """The profile, with the tables that are known only now."""
        profile = self._profile
        entries = list(self._mappings.items())
        if self._first is not None:
            entries.sort(key=lambda entry: not self._first(entry[0][0]))  # type: ignore[misc]
        for (file, build_id, start), number in entries:
            mapping = profile.mapping.add(id=number)
            mapping.filename = self.text(printable(file))
            mapping.build_id = self.text(printable(build_id or ""))
            if start is not None:
                size = _WINDOW
                while size <= self._reached[number]:
                    size *= 2
                mapping.memory_start = start
                mapping.memory_limit = min(start + size, _ADDRESSES - 1)
            # leaktrace has looked up all that can be known: pprof needn't try again.
            mapping.has_functions = mapping.has_filenames = True
            mapping.has_line_numbers = mapping.has_inline_frames = True
        profile.string_table.extend(self._texts)
        return profile

    def _single(self, frame: Frame, is_return_address: bool) -> int:
        key = id(frame) << 1 | is_return_address
        number = self._known.get(key)
        if number is None:
            number = self._known[key] = self._equal((frame,), is_return_address)
        return number

    def _equal(self, lines: Sequence[Frame], is_return_address: bool) -> int:
        """By value: a file of reports may have an object of its own for each frame of a stack."""
        key = (is_return_address, *map(_fields, lines))
        known = self._equals.get(key)
        if known is None:
            known = self._equals[key] = self._place(lines, is_return_address)
        return known

    def _place(self, lines: Sequence[Frame], is_return_address: bool) -> int:
        frame = lines[-1]
        address = max(frame.address - is_return_address, 0) % _ADDRESSES
        mapping = self._mapping(frame)
        named = tuple(
            (self._function(one), 0 if one.source is None else _line(one.source.line))
            for one in lines
        )
        key = (mapping, address, named)
        known = self._places.get(key)
        if known is None:
            known = self._places[key] = len(self._places) + 1
            location = self._profile.location.add(id=known, mapping_id=mapping, address=address)
            for function, line in named:
                location.line.add(function_id=function, line=line)
        return known

    def _unknown(self) -> int:
        """The location of stacks that could not be stored."""
        return self._place([Frame(0, STACK_NOT_KNOWN)], is_return_address=False)

    def _function(self, frame: Frame) -> int:
        name = frame_name(frame)
        file = "" if frame.source is None else printable(frame.source.file)
        known = self._functions.get((name, file))
        if known is None:
            known = self._functions[name, file] = len(self._functions) + 1
            # Without a system_name: pprof would demangle and shorten it.
            self._profile.function.add(id=known, name=self.text(name), filename=self.text(file))
        return known

    def _mapping(self, frame: Frame) -> int:
        if frame.module is None:
            return 0
        file = _KERNEL_FILE if frame.module == _KERNEL else frame.module
        offset, start = frame.module_offset, None
        if offset is not None and 0 <= offset <= frame.address < _ADDRESSES:
            start = frame.address - offset
        number = self._mappings.setdefault((file, frame.build_id, start), len(self._mappings) + 1)
        if start is not None and offset is not None:
            self._reached[number] = max(self._reached.get(number, 0), offset)
        return number


def _line(line: int) -> int:
    """A recording may say anything; 0: not known."""
    return line if 0 < line < 1 << 63 else 0


def _fields(frame: Frame) -> tuple[object, ...]:
    """What makes a location, as a tuple: hundreds of thousands are compared."""
    place = frame.address, frame.function, frame.module, frame.module_offset, frame.build_id
    source = frame.source
    return place if source is None else (*place, source.file, source.line)
