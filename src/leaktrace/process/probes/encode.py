"""Points as the BPF program reads them: struct point of bpf/process/types.h."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leaktrace.abi import process as abi
from leaktrace.arch.x86_64 import RBP
from leaktrace.process.probes.code.values import Constant, Place, Register, Slot
from leaktrace.process.probes.point import Point


def encode_points(points: Iterable[Point]) -> NDArray[Any]:
    """An array of abi.POINT, in the order of `points`."""
    listed = list(points)
    encoded = np.zeros(len(listed), dtype=abi.POINT)
    for row, point in zip(encoded, listed, strict=True):
        row["function"] = point.function
        row["shape"] = point.shape.bits
        row["action"] = point.action
        row["condition"] = abi.POINT_ALWAYS if point.condition is None else point.condition
        row["flags"] = (
            (abi.POINT_BY_ARGUMENTS if point.by_arguments else 0)
            | (abi.POINT_MAY_BE_UNOPENED if point.may_be_unopened else 0)
            | (abi.POINT_MAY_BEGIN_AGAIN if point.may_begin_again else 0)
        )
        row["frame_register"], row["frame_offset"] = point.frame
        row["rbp_offset"] = _rbp_offset(point.callers_rbp)
        for name, place in zip(("size", "count"), point.sizes, strict=False):
            row[name] = _encode_place(place)
        if point.result is not None:
            row["result"] = _encode_place(point.result)
    return encoded


def _rbp_offset(place: Place | None) -> int:
    match place:
        case Register(number) if number == RBP:
            return abi.RBP_UNCHANGED
        case Slot(offset_bytes):
            return offset_bytes
    return abi.RBP_LOST


def _encode_place(place: Place) -> tuple[int, int, int]:
    match place:
        case Register(number):
            return abi.PlaceKind.REGISTER, number, 0
        case Slot(offset_bytes):
            return abi.PlaceKind.SLOT, 0, offset_bytes
        case Constant(value):
            return abi.PlaceKind.CONSTANT, 0, value
