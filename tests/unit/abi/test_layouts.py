"""The numpy types and enums of abi/process.py against bpf/process/types.h, as a C compiler lays
it out."""

from __future__ import annotations

import json
import subprocess
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from leaktrace.abi import process as abi
from leaktrace.bpf.build import source_directory
from leaktrace.unwind.layout import MAPPING_DTYPE
from leaktrace.unwind.rows import Rule

STRUCTS: dict[str, np.dtype[Any]] = {
    "allocation": abi.ALLOCATION,
    "site": abi.SITE,
    "stack": abi.STACK,
    "session": abi.SESSION,
    "event": abi.EVENT,
    "throttle": abi.THROTTLE,
    "file_mapping": abi.FILE_MAPPING,
    "unwind_list": abi.UNWIND_LIST,
    "unwind_mapping": MAPPING_DTYPE,
    "place": abi.PLACE,
    "point": abi.POINT,
    "unseen_release": abi.UNSEEN_RELEASE,
}
ENUMS: dict[str, type[IntEnum]] = {
    "END_": abi.StackEndCode,
    "FUNCTION_": abi.Function,
    "EVENT_": abi.EventCode,
    "LOSS_": abi.LossKind,
    "WALK_": abi.WalkResult,
    "TALLY_": abi.Tally,
    "POINT_": abi.Action,
    "PLACE_": abi.PlaceKind,
    "": Rule,
}
POINT_CONSTANTS = (
    "POINT_BY_ARGUMENTS",
    "POINT_MAY_BE_UNOPENED",
    "POINT_MAY_BEGIN_AGAIN",
    "POINT_ALWAYS",
    "RBP_UNCHANGED",
    "RBP_LOST",
)


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Sizes, offsets and numbers as a program compiled from the header prints them."""
    lines = []
    for name, dtype in STRUCTS.items():
        lines.append(f'printf("\\"{name}\\": %zu,\\n", sizeof(struct {name}));')
        for field in dtype.names or ():
            where = f"offsetof(struct {name}, {field})"
            size = f"sizeof(((struct {name} *)0)->{field})"
            lines.append(f'printf("\\"{name}.{field}\\": [%zu, %zu],\\n", {where}, {size});')
    for prefix, enum in ENUMS.items():
        for member in enum:
            constant = f"{prefix}{member.name}"
            lines.append(f'printf("\\"{constant}\\": %d,\\n", {constant});')
    lines.append('printf("\\"STATUS_IS_KNOWN\\": %llu,\\n", STATUS_IS_KNOWN);')
    for constant in ("MAX_FRAMES", "LOSS_KINDS", "UNSEEN_RELEASES", *POINT_CONSTANTS):
        lines.append(f'printf("\\"{constant}\\": %d,\\n", {constant});')
    source = "\n".join(
        [
            "#include <stddef.h>",
            "#include <stdint.h>",
            "#include <stdio.h>",
            "typedef uint8_t u8; typedef uint16_t u16; typedef uint32_t u32; typedef uint64_t u64;",
            "typedef int32_t s32;",
            f'#include "{source_directory() / "shared" / "types.h"}"',
            f'#include "{source_directory() / "process" / "types.h"}"',
            "int main(void) {",
            'printf("{");',
            *lines,
            'printf("\\"end\\": 0}");',
            "}",
        ]
    )
    folder = tmp_path_factory.mktemp("abi")
    Path(folder / "layout.c").write_text(source)
    subprocess.run(["gcc", "-o", folder / "layout", folder / "layout.c"], check=True)
    text = subprocess.run([folder / "layout"], capture_output=True, check=True).stdout
    result: dict[str, Any] = json.loads(text)
    return result


@pytest.mark.parametrize("name", STRUCTS)
def test_struct_layout(name: str, layout: dict[str, Any]) -> None:
    dtype = STRUCTS[name]
    assert dtype.fields is not None
    assert dtype.itemsize == layout[name]
    for field, (kind, offset, *_) in dtype.fields.items():
        assert [offset, kind.itemsize] == layout[f"{name}.{field}"], field


@pytest.mark.parametrize("prefix", ENUMS)
def test_enum_numbers(prefix: str, layout: dict[str, Any]) -> None:
    for member in ENUMS[prefix]:
        assert layout[f"{prefix}{member.name}"] == member, member


def test_constants(layout: dict[str, Any]) -> None:
    assert layout["MAX_FRAMES"] == abi.MAX_FRAMES
    assert layout["LOSS_KINDS"] == abi.LOSS_COUNTERS
    assert layout["UNSEEN_RELEASES"] == abi.UNSEEN_RELEASES
    assert layout["STATUS_IS_KNOWN"] == abi.STATUS_IS_KNOWN
    for name in POINT_CONSTANTS:
        assert layout[name] == getattr(abi, name)
