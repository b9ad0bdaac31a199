"""Readers of exported files, written from the descriptions of the formats: figures by stack.

A stack is a tuple of names, outermost first. Nothing here uses the code that writes the files.
"""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

Figures = dict[tuple[str, ...], int]


def read_folded(content: bytes) -> Figures:
    """Stacks of folded lines."""
    figures: Counter[tuple[str, ...]] = Counter()
    for line in content.decode().splitlines():
        # As flamegraph.pl reads it, which also looks for a second figure.
        found = re.fullmatch(r"(.*)\s+?(\d+(?:\.\d*)?)", line)
        assert found is not None, line
        assert re.fullmatch(r"(.*)\s+?(\d+(?:\.\d*)?)", found[1]) is None, line
        figures[tuple(found[1].split(";"))] += int(found[2])
    return dict(figures)


def read_speedscope(content: bytes) -> dict[str, Figures]:
    """By name of the profile."""
    file = json.loads(content)
    names = [frame["name"] for frame in file["shared"]["frames"]]
    profiles: dict[str, Figures] = {}
    for profile in file["profiles"]:
        figures: Counter[tuple[str, ...]] = Counter()
        for sample, weight in zip(profile["samples"], profile["weights"], strict=True):
            figures[tuple(names[at] for at in sample)] += weight
        assert profile["endValue"] == figures.total()
        assert profile["name"] not in profiles
        profiles[profile["name"]] = dict(figures)
    return profiles


# -- massif --


@dataclass
class MassifNode:
    bytes: int
    text: str
    children: list[MassifNode] = field(default_factory=list)


@dataclass
class MassifSnapshot:
    time: int
    bytes: int
    kind: str  # "empty", "detailed" or "peak"
    tree: MassifNode | None = None


def read_massif(content: bytes) -> list[MassifSnapshot]:
    """The snapshots, as ms_print reads them: without comments, children by their number."""
    lines = [re.sub("#.*", "", line) for line in content.decode().splitlines()]
    waiting = iter([line for line in lines if line.strip()])
    assert next(waiting).startswith("desc: ")
    assert next(waiting).startswith("cmd: ")
    assert next(waiting) == "time_unit: ms"
    snapshots: list[MassifSnapshot] = []
    for line in waiting:
        assert line == f"snapshot={len(snapshots)}"
        values = [_massif_value(next(waiting), name) for name in _MASSIF_FIELDS]
        assert values[2:4] == ["0", "0"]
        snapshot = MassifSnapshot(int(values[0]), int(values[1]), values[4])
        if snapshot.kind != "empty":
            snapshot.tree = _massif_tree(waiting, 0)
        snapshots.append(snapshot)
    return snapshots


_MASSIF_FIELDS = ("time", "mem_heap_B", "mem_heap_extra_B", "mem_stacks_B", "heap_tree")


def _massif_value(line: str, name: str) -> str:
    assert line.startswith(f"{name}=")
    return line.removeprefix(f"{name}=")


def _massif_tree(lines: Iterator[str], depth: int) -> MassifNode:
    found = re.fullmatch(r"( *)n(\d+): (\d+) (.*)", next(lines))
    assert found is not None
    assert len(found[1]) == depth
    node = MassifNode(int(found[3]), found[4])
    node.children = [_massif_tree(lines, depth + 1) for _ in range(int(found[2]))]
    return node


# -- pprof --


@dataclass
class Pprof:
    """A decoded profile."""

    figures: dict[str, Figures]  # by sample type
    units: dict[str, str]
    default: str
    labels: list[dict[str, str | int]]  # of each sample
    comments: list[str]
    addresses: dict[tuple[str, ...], list[int]]  # of each stack, leaf first


def read_pprof(content: bytes) -> Pprof:
    """Decode profile.proto by the wire format of protocol buffers."""
    profile = _fields(gzip.decompress(content))
    texts = [one.decode() for one in _blobs(profile, 6)]
    assert texts[0] == ""
    assert len(texts) == len(set(texts))
    functions = {}
    for function in map(_fields, _blobs(profile, 5)):
        functions[_number(function, 1)] = texts[_number(function, 2)]
    lines: dict[int, list[str]] = {}
    places: dict[int, int] = {}
    mappings = {_number(one, 1) for one in map(_fields, _blobs(profile, 3))}
    for location in map(_fields, _blobs(profile, 4)):
        number = _number(location, 1)
        assert number not in lines
        assert _number(location, 2) in {0, *mappings}
        lines[number] = [functions[_number(line, 1)] for line in map(_fields, _blobs(location, 4))]
        places[number] = _number(location, 3)
    kinds = [_fields(one) for one in _blobs(profile, 1)]
    names = [texts[_number(kind, 1)] for kind in kinds]
    assert len(names) == len(set(names))
    read = Pprof(
        {name: {} for name in names},
        {name: texts[_number(kind, 2)] for name, kind in zip(names, kinds, strict=True)},
        texts[_number(profile, 14)],
        [],
        [texts[number] for number in _numbers(profile, 13)],
        {},
    )
    for sample in map(_fields, _blobs(profile, 2)):
        numbers = _numbers(sample, 1)
        leaf_first = [name for number in numbers for name in lines[number]]
        stack = tuple(reversed(leaf_first))
        read.addresses[stack] = [places[number] for number in numbers]
        for name, value in zip(names, _numbers(sample, 2), strict=True):
            of_type = read.figures[name]
            of_type[stack] = of_type.get(stack, 0) + value
        read.labels.append(dict(_label(_fields(one), texts) for one in _blobs(sample, 3)))
    return read


_Fields = dict[int, list[int | bytes]]


def _label(label: _Fields, texts: list[str]) -> tuple[str, str | int]:
    text = _number(label, 2)
    return texts[_number(label, 1)], texts[text] if text else _number(label, 3)


def _fields(message: bytes) -> _Fields:
    fields: _Fields = defaultdict(list)
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, at = _varint(message, at)
            fields[number].append(value)
        else:
            assert kind == 2
            size, at = _varint(message, at)
            assert at + size <= len(message)
            fields[number].append(message[at : at + size])
            at += size
    return fields


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if byte < 0x80:
            return value, at


def _number(fields: _Fields, number: int) -> int:
    found = fields.get(number, [0])[-1]
    assert isinstance(found, int)
    return found


def _blobs(fields: _Fields, number: int) -> list[bytes]:
    return [one for one in fields.get(number, []) if isinstance(one, bytes)]


def _numbers(fields: _Fields, number: int) -> list[int]:
    """Of a repeated field, packed or not; 64 bits with a sign."""
    values: list[int] = []
    for one in fields.get(number, []):
        if isinstance(one, int):
            values.append(one)
            continue
        at = 0
        while at < len(one):
            value, at = _varint(one, at)
            values.append(value)
    return [value - (1 << 64) if value >> 63 else value for value in values]
