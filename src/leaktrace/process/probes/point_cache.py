"""Points on disk, so that the functions of a library are analysed once and not at every start.

A file is found by a hash of the whole object and of the question, so an object that lies about its
build ID can't replace the points of another one. Nothing here fails: without a usable cache,
functions are analysed again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from leaktrace.abi.process import Action, Function
from leaktrace.arch.x86_64 import may_have_shadow_stacks
from leaktrace.cache.files import FileCache
from leaktrace.elf.object import ElfObject
from leaktrace.process.probes.code.flow import UnfollowableError
from leaktrace.process.probes.code.values import Constant, Place, Register, Slot
from leaktrace.process.probes.point import Point
from leaktrace.process.probes.shape import Shape, Signature

# Increase it when the same code gives other points, or other reasons why there are none.
POINTS_VERSION = 9

_LIMIT_BYTES = 16 << 20
MAX_HASHED_BYTES = 256 << 20  # hashed in a quarter of a second; larger objects are not cached
_PIECE_BYTES = 1 << 20
_PLACES: Mapping[str, type[Place]] = {"register": Register, "slot": Slot, "constant": Constant}

# What is known of a function: its points, or why it can't be followed.
Found = tuple[Point, ...] | str


class PointCache:
    """Points by object; `home` as for `FileCache`."""

    def __init__(self, home: Path | None) -> None:
        self._files = FileCache(home, "points", ".json", _LIMIT_BYTES)

    def points_of(
        self,
        elf: ElfObject,
        asked: Mapping[int, Signature],
        find: Callable[[], dict[int, Found]],
        names: Iterable[str] = (),
    ) -> dict[int, Found]:
        """What is known of functions, by their virtual addresses: from the cache, or from `find`,
        whose result is stored. `names`: those of hooked functions, on which the result depends.

        Raises ObjectFileError where the object can't be read.
        """
        if elf.file_size > MAX_HASHED_BYTES:
            return find()
        name = _digest(elf, asked, names)
        data = self._files.read(name)
        known = None if data is None else _decode(data)
        if known is not None:
            return known
        found = find()
        self._files.write(name, _encode(found))
        return found


def found_by(find: Callable[[], tuple[Point, ...]]) -> Found:
    """The points, or the reason why there are none."""
    try:
        return find()
    except UnfollowableError as error:
        return str(error)


def _digest(elf: ElfObject, asked: Mapping[int, Signature], names: Iterable[str]) -> str:
    questions = sorted((vaddr, one.function, one.shape.bits) for vaddr, one in asked.items())
    return digest_of(elf, [POINTS_VERSION, may_have_shadow_stacks(), questions, sorted(names)])


def digest_of(elf: ElfObject, question: Sequence[object]) -> str:
    """A hash of the whole object, and of what is asked about it. Raises ObjectFileError."""
    state = hashlib.blake2b(json.dumps(question).encode(), digest_size=20)
    for offset in range(0, elf.file_size, _PIECE_BYTES):
        state.update(elf.read(offset, min(_PIECE_BYTES, elf.file_size - offset)))
    return state.hexdigest()


def _encode(found: Mapping[int, Found]) -> bytes:
    return json.dumps(
        {
            str(vaddr): one if isinstance(one, str) else [_point_to_json(point) for point in one]
            for vaddr, one in found.items()
        }
    ).encode()


def _decode(data: bytes) -> dict[int, Found] | None:
    """None unless `data` is complete and valid."""
    try:
        return {
            int(vaddr): one if isinstance(one, str) else tuple(_point_from_json(p) for p in one)
            for vaddr, one in json.loads(data).items()
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _point_to_json(point: Point) -> dict[str, Any]:
    return {
        "vaddr": point.vaddr,
        "action": point.action,
        "function": point.function,
        "shape": point.shape.bits,
        "instruction": point.instruction,
        "emulated": point.emulated,
        "frame": point.frame,
        "callers_rbp": _place_to_json(point.callers_rbp),
        "sizes": [_place_to_json(place) for place in point.sizes],
        "by_arguments": point.by_arguments,
        "may_begin_again": point.may_begin_again,
        "result": _place_to_json(point.result),
        "condition": point.condition,
        "may_be_unopened": point.may_be_unopened,
        "towards": point.towards,
    }


def _point_from_json(raw: dict[str, Any]) -> Point:
    sizes = (_place_from_json(place) for place in raw["sizes"])
    register, offset_bytes = raw["frame"]
    return Point(
        **{
            **raw,
            "action": Action(raw["action"]),
            "function": Function(raw["function"]),
            "shape": Shape.from_bits(raw["shape"]),
            "frame": (register, offset_bytes),
            "callers_rbp": _place_from_json(raw["callers_rbp"]),
            "sizes": tuple(place for place in sizes if place is not None),
            "result": _place_from_json(raw["result"]),
        }
    )


def _place_to_json(place: Place | None) -> tuple[str, int] | None:
    match place:
        case Register(number):
            return "register", number
        case Slot(offset_bytes):
            return "slot", offset_bytes
        case Constant(value):
            return "constant", value
    return None


def _place_from_json(raw: tuple[str, int] | None) -> Place | None:
    if raw is None:
        return None
    kind, number = raw
    return _PLACES[kind](number)
