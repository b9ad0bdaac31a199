"""Checked access to the fields of JSON objects that somebody else may have written.

Names come out printable (leaktrace/printable.py), numbers have the sizes that leaktrace itself can
write. Anything else raises `MalformedError`, which says where.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Any, NoReturn, TypeVar

from leaktrace.printable import printable

_ADDRESS = re.compile(r"0x[0-9a-f]{1,16}")
_LARGEST = 1 << 64
_MOST_QUOTED = 40  # characters of a wrong value
_Word = TypeVar("_Word", bound=StrEnum)
_Value = TypeVar("_Value")
_MISSING = object()


class MalformedError(ValueError):
    """A line is not what leaktrace writes: what is wrong with it."""


def parsed_object(line: bytes) -> dict[str, Any]:
    """The JSON object in a line. Raises MalformedError."""
    try:
        value = json.loads(line, parse_constant=_refuse_constant)
    except MalformedError:
        raise
    except RecursionError:
        raise MalformedError("it is nested too deeply") from None
    except ValueError:  # not JSON, not UTF-8, or a number of thousands of digits
        raise MalformedError("it is not JSON") from None
    if not isinstance(value, dict):
        raise MalformedError("it is not a JSON object")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise MalformedError(f"it contains {name}, which is not JSON")


class Fields:
    """A JSON object whose fields are checked as they are read."""

    def __init__(self, value: object, where: str) -> None:
        """`where` names the object in errors. Raises MalformedError if it is none."""
        if not isinstance(value, dict):
            raise MalformedError(f"{where} is not an object")
        self._value: dict[str, Any] = value
        self._where = where

    def __contains__(self, key: str) -> bool:
        return key in self._value

    def is_null(self, key: str) -> bool:
        """Whether a field is null, or missing."""
        return self._value.get(key) is None

    def integer(self, key: str, default: int | None = None) -> int:
        """A whole number. `default`: if it is null or missing; None: it must be there."""
        value = self._get(key, default)
        if type(value) is not int or abs(value) > _LARGEST:
            self._refuse(key, "a whole number of 64 bits")
        return value

    def optional_integer(self, key: str) -> int | None:
        """The same; null and missing are None."""
        return None if self.is_null(key) else self.integer(key)

    def number(self, key: str, default: float | None = None) -> float:
        """Any number."""
        value = self._get(key, default)
        if type(value) not in (int, float) or not math.isfinite(value) or abs(value) > _LARGEST:
            self._refuse(key, "a number")
        return float(value)

    def optional_number(self, key: str) -> float | None:
        return None if self.is_null(key) else self.number(key)

    def text(self, key: str, default: str | None = None) -> str:
        """A text, made printable."""
        value = self._get(key, default)
        if not isinstance(value, str):
            self._refuse(key, "a text")
        return printable(value)

    def optional_text(self, key: str) -> str | None:
        return None if self.is_null(key) else self.text(key)

    def flag(self, key: str, default: bool | None = None) -> bool:
        """True or false."""
        value = self._get(key, default)
        if not isinstance(value, bool):
            self._refuse(key, "true or false")
        return value

    def word(self, key: str, words: type[_Word], default: _Word | None = None) -> _Word:
        """One of some words. A newer leaktrace may know others: `default` stands for those."""
        value = self._get(key, default)
        try:
            return words(value)
        except ValueError:
            if default is not None and isinstance(value, str):
                return default
            self._refuse(key, f"one of {', '.join(words)}")

    def address(self, key: str) -> int:
        """A number in hexadecimal, as text."""
        value = self._get(key, None)
        if not isinstance(value, str) or not _ADDRESS.fullmatch(value):
            self._refuse(key, "an address")
        return int(value, 16)

    def optional_address(self, key: str) -> int | None:
        return None if self.is_null(key) else self.address(key)

    def inner(self, key: str) -> Fields:
        """An object in it."""
        return Fields(self._get(key, None), self._path(key))

    def optional(self, key: str, build: Callable[[Fields], _Value]) -> _Value | None:
        """What `build` makes of an object in it; null and missing are None."""
        return None if self.is_null(key) else build(self.inner(key))

    def objects(self, key: str) -> Iterator[Fields]:
        """The objects of a list; null and missing are an empty one."""
        for number, value in enumerate(self.items(key)):
            yield Fields(value, f"{self._path(key)}[{number}]")

    def items(self, key: str) -> list[Any]:
        """A list of anything."""
        value = self._get(key, [])
        if not isinstance(value, list):
            self._refuse(key, "a list")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts, made printable."""
        return tuple(printable(self._checked(key, one, str, "texts")) for one in self.items(key))

    def integers(self, key: str) -> tuple[int, ...]:
        """A list of whole numbers."""
        numbers = tuple(self._checked(key, one, int, "numbers") for one in self.items(key))
        if any(abs(one) > _LARGEST for one in numbers):
            self._refuse(key, "a list of numbers of 64 bits")
        return numbers

    def counts(self, key: str) -> dict[str, int]:
        """An object whose values are whole numbers; null and missing are an empty one."""
        value = self._dict(key)
        fields = Fields(value, self._path(key))
        return {printable(name): fields.integer(name) for name in value}

    def values(self, key: str) -> dict[str, Any]:
        """An object of anything, whose texts are made printable."""
        return {printable(name): _made_printable(value) for name, value in self._dict(key).items()}

    def _dict(self, key: str) -> dict[str, Any]:
        value = self._get(key, {})
        if not isinstance(value, dict):
            self._refuse(key, "an object")
        return value

    def _checked(self, key: str, value: object, kind: type[_Value], what: str) -> _Value:
        if type(value) is not kind:
            self._refuse(key, f"a list of {what}")
        return value

    def _get(self, key: str, default: object) -> Any:  # noqa: ANN401
        value = self._value.get(key, default)
        return default if value is None else value

    def _path(self, key: str) -> str:
        return f"{self._where}.{key}"

    def _refuse(self, key: str, what: str) -> NoReturn:
        value = self._value.get(key, _MISSING)
        if value is _MISSING:
            raise MalformedError(f"{printable(self._path(key), 200)} is missing")
        shown = printable(
            repr(value)[:_MOST_QUOTED] if not isinstance(value, (dict, list)) else "…"
        )
        raise MalformedError(f"{printable(self._path(key), 200)} is {shown}, not {what}")


def _made_printable(value: object) -> object:
    """Texts on the first level; what is deeper is not shown."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [printable(one) for one in value if isinstance(one, str)]
    return value if isinstance(value, (bool, int, float)) else None
