"""leaktrace.abi against the C headers, as a C compiler lays them out.

Every struct, enum and constant of bpf/*/types.h must have a counterpart in Python, and the reverse.
The names are found by reading the headers, so a new one without a counterpart fails.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import leaktrace
from leaktrace.abi import common, kernel, process, ranking, refills, registers
from leaktrace.bpf.sources import source_directory, source_text
from leaktrace.kernel.program import KERNEL_FRAGMENTS
from leaktrace.process.go_refills import REFILL_FRAGMENTS
from leaktrace.process.program import FAULT_FRAGMENTS, FRAGMENTS
from leaktrace.process.registers import REGISTER_FRAGMENTS

MODULES = {
    "shared": common,
    "process": process,
    "kernel": kernel,
    "ranking": ranking,
    "registers": registers,
    "go": refills,
}

# The class of each enum, and the prefix of its members in C.
ENUMS: dict[str, dict[str, tuple[type[IntEnum], str]]] = {
    "shared": {
        "stack_end": (common.StackEndCode, "END_"),
        "event_kind": (common.EventCode, "EVENT_"),
    },
    "process": {
        "walk_result": (process.WalkResult, "WALK_"),
        "rule": (process.Rule, ""),
        "saved_rbp": (process.SavedRbp, "SAVED_RBP_"),
        "end_of": (process.EndOf, "END_OF_"),
        "function": (process.Function, "FUNCTION_"),
        "descriptor_action": (process.DescriptorAction, "DESCRIPTOR_"),
        "descriptor_condition": (process.DescriptorCondition, "DESCRIPTOR_"),
        "outcome": (process.Outcome, "OUTCOME_"),
        "place_kind": (process.PlaceKind, "PLACE_"),
        "point_action": (process.Action, "POINT_"),
        "tally": (process.Tally, "TALLY_"),
        "loss": (process.LossKind, "LOSS_"),
    },
    "kernel": {
        "section": (kernel.Section, "SECTION_"),
        "context": (kernel.Context, "CONTEXT_"),
        "kernel_function": (kernel.KernelFunction, "KERNEL_"),
        "loss": (kernel.KernelLossKind, "LOSS_"),
    },
    "ranking": {"loss": (ranking.RankingLossKind, "LOSS_")},
    "registers": {},
    "go": {"loss": (refills.RefillLossKind, "LOSS_")},
}

# Members of C enums that count the others.
COUNTS: dict[str, dict[str, int]] = {
    "shared": {},
    "process": {
        "WALK_RESULTS": len(process.WalkResult),
        "TALLIES": len(process.Tally),
        "LOSS_KINDS": process.LOSS_COUNTERS,
    },
    "kernel": {"SECTIONS": len(kernel.Section), "LOSS_KINDS": kernel.KERNEL_LOSS_KINDS},
    "ranking": {"LOSS_KINDS": ranking.RANKING_LOSS_KINDS},
    "registers": {},
    "go": {"LOSS_KINDS": refills.REFILL_LOSS_KINDS},
}

# Numbers that Python computes from others.
COMPUTED = {"LOSS_COUNTERS", "KERNEL_LOSS_KINDS", "RANKING_LOSS_KINDS", "REFILL_LOSS_KINDS"}

_KNOB = re.compile(r"[A-Z][A-Z0-9_]{3,}")

# Structs in maps that only the kernel side reads and writes, and why user space needs no type.
KERNEL_SIDE_ONLY = {
    "call": "copies of open calls, for coroutines",
    "cache_name": "a key of CACHE_NAME_BYTES characters",
    "command_name": "a key of COMMAND_BYTES characters",
    "kernel_call": "open calls of kprobes",
    "known_stack": "the cache of stacks",
    "known_start": "the cache of stacks",
    "late_object": "made of events that user space gets, too",
    "opened": "open calls, for coroutines",
    "recent_row": "a cache of rows",
    "scratch": "buffers of a running program",
    "thread": "state of a thread",
}


@dataclass(frozen=True)
class Header:
    """What a header defines."""

    structs: dict[str, list[str]]  # with their fields
    enums: dict[str, list[str]]  # with their members
    constants: list[str]

    @classmethod
    def parse(cls, text: str) -> Header:
        code = without_comments(text)
        return cls(
            structs={
                name: re.findall(r"(\w+)(?:\[\w+\])?;", body)
                for name, body in re.findall(r"^struct (\w+) \{\n(.*?)^\};", code, re.S | re.M)
            },
            enums={
                name: re.findall(r"^\s*(\w+)(?: = [^,]+)?,", body, re.M)
                for name, body in re.findall(r"^enum (\w+) \{\n(.*?)^\};", code, re.S | re.M)
            },
            constants=re.findall(r"^#define (\w+) +\S", code, re.M),
        )


def without_comments(code: str) -> str:
    return re.sub(r"/\*.*?\*/", "", code, flags=re.DOTALL)


def read(folder: str) -> str:
    return (source_directory() / folder / "types.h").read_text()


def dtypes(module: ModuleType) -> dict[str, np.dtype[Any]]:
    """The structs that a module of leaktrace.abi defines itself."""
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, np.dtype) and value.fields and is_own(module, name)
    }


def is_own(module: ModuleType, name: str) -> bool:
    return module is common or name not in vars(common)


def numbers(folder: str, tmp_path: Path) -> dict[str, Any]:
    """Sizes of structs; offsets and sizes of fields; enum members and constants."""
    header = Header.parse(read(folder))
    printed = [("%zu", f'"{name}"', [f"sizeof(struct {name})"]) for name in header.structs]
    printed += [
        (
            "[%zu, %zu]",
            f'"{name}.{field}"',
            [f"offsetof(struct {name}, {field})", f"sizeof(((struct {name} *)0)->{field})"],
        )
        for name, fields in header.structs.items()
        for field in fields
    ]
    printed += [
        ("%llu", f'"{name}"', [f"(unsigned long long)({name})"])
        for name in [*header.constants, *(one for many in header.enums.values() for one in many)]
    ]
    lines = [
        f'printf("%s: {form},\\n", {json.dumps(key)}, {", ".join(values)});'
        for form, key, values in printed
    ]
    source = [
        "#include <stddef.h>",
        "#include <stdint.h>",
        "#include <stdio.h>",
        "typedef uint8_t u8; typedef uint16_t u16; typedef uint32_t u32; typedef uint64_t u64;",
        "typedef int32_t s32;",
        read("shared"),
        "" if folder == "shared" else read(folder),
        'int main(void) { printf("{");',
        *lines,
        'printf("\\"end\\": 0}"); }',
    ]
    (tmp_path / "layout.c").write_text("\n".join(source))
    subprocess.run(["gcc", "-o", "layout", "layout.c"], cwd=tmp_path, check=True)
    text = subprocess.run([tmp_path / "layout"], capture_output=True, check=True).stdout
    result: dict[str, Any] = json.loads(text)
    return result


def test_the_headers_are_understood() -> None:
    for folder in MODULES:
        text = read(folder)
        header = Header.parse(text)
        assert len(header.structs) == len(re.findall(r"\bstruct \w+ \{", text)) > 0
        assert len(header.enums) == len(re.findall(r"\benum \w+ \{", text)) >= len(ENUMS[folder])
        guard = 1
        assert len(header.constants) + guard == text.count("#define ")
        assert "union" not in without_comments(text)


@pytest.mark.parametrize("folder", MODULES)
def test_structs(folder: str, tmp_path: Path) -> None:
    layout = numbers(folder, tmp_path)
    ours = dtypes(MODULES[folder])
    structs = Header.parse(read(folder)).structs
    assert sorted(ours) == sorted(name.upper() for name in structs)
    for name, fields in structs.items():
        dtype = ours[name.upper()]
        assert dtype.fields is not None
        assert dtype.itemsize == layout[name], name
        assert list(dtype.names or ()) == fields, name
        for field, (kind, offset, *_) in dtype.fields.items():
            assert [offset, kind.itemsize] == layout[f"{name}.{field}"], f"{name}.{field}"


@pytest.mark.parametrize("folder", MODULES)
def test_enums(folder: str, tmp_path: Path) -> None:
    layout = numbers(folder, tmp_path)
    module = MODULES[folder]
    enums = Header.parse(read(folder)).enums
    assert sorted(enums) == sorted(ENUMS[folder])
    defined = {
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, IntEnum)
        and value.__module__ == module.__name__
    }
    assert defined == {enum for enum, _ in ENUMS[folder].values()}
    for name, members in enums.items():
        enum, prefix = ENUMS[folder][name]
        expected = {f"{prefix}{member.name}": int(member) for member in enum}
        expected |= {one: COUNTS[folder][one] for one in members if one in COUNTS[folder]}
        assert {one: layout[one] for one in members} == expected


@pytest.mark.parametrize("folder", MODULES)
def test_constants(folder: str, tmp_path: Path) -> None:
    layout = numbers(folder, tmp_path)
    module = MODULES[folder]
    ours = {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, int) and name not in COMPUTED and is_own(module, name)
    }
    assert ours == {name: layout[name] for name in Header.parse(read(folder)).constants}


def test_the_kernel_modes_structs_begin_like_those_of_the_process_mode() -> None:
    """So that analysis reads either."""
    for ours, theirs in (
        (process.ALLOCATION, kernel.KERNEL_ALLOCATION),
        (process.SITE, kernel.KERNEL_SITE),
    ):
        assert ours.fields is not None
        assert theirs.fields is not None
        for name, where in ours.fields.items():
            assert theirs.fields[name] == where, name


def test_every_section_and_context_has_a_name() -> None:
    assert set(kernel.SECTION_NAMES) == set(kernel.Section)
    assert set(kernel.CONTEXT_NAMES) == set(kernel.Context)


def test_structs_in_maps_are_shared_or_listed() -> None:
    """A map that user space reads must hold a struct of types.h."""
    shared = {name for folder in MODULES for name in Header.parse(read(folder)).structs}
    in_maps = set()
    for path in sorted(source_directory().glob("*/*.bpf.c")):
        for declaration in re.findall(r"^BPF_\w+\(.*?\);", path.read_text(), re.S | re.M):
            in_maps |= set(re.findall(r"struct (\w+)", declaration))
    assert in_maps - shared == set(KERNEL_SIDE_ONLY)


@pytest.mark.parametrize(
    ("folder", "fragments"),
    [
        ("process", {*FRAGMENTS, *FAULT_FRAGMENTS, *REGISTER_FRAGMENTS, *REFILL_FRAGMENTS}),
        ("kernel", set(KERNEL_FRAGMENTS)),
    ],
)
def test_knobs_exist_in_the_program(folder: str, fragments: set[str]) -> None:
    """The compiler silently ignores a -D that no source reads."""
    given = set()
    for path in sorted((Path(leaktrace.__file__).parent / folder).rglob("*.py")):
        given |= {name for name in string_keys(path.read_text()) if _KNOB.fullmatch(name)}
    assert {"TRACE", "SAMPLE_RATE"} <= given
    source = without_comments(source_text(sorted(fragments)))
    assert given <= set(re.findall(r"\w+", source))


def string_keys(code: str) -> Iterator[str]:
    """Strings that are keys of a dictionary display or indices in a module's code."""
    for node in ast.walk(ast.parse(code)):
        keys = node.keys if isinstance(node, ast.Dict) else []
        keys = [node.slice] if isinstance(node, ast.Subscript) else keys
        for key in keys:
            if isinstance(key, ast.Constant) and isinstance(key.value, str):
                yield key.value
