"""Blocks in reports: bytes, names and sentences."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from rendered_samples import rendered
from rich.cells import cell_len
from sample_reports import BUSY, PARSE_SITE

from leaktrace.contents import (
    BlockContents,
    ContentsInfo,
    Pointer,
    PointerKind,
    Shared,
    SharedKind,
    SiteContents,
    Text,
)
from leaktrace.model import Report
from leaktrace.report.contents import contents_lines, sentence
from leaktrace.report.hexdump import hexdump
from leaktrace.report.site_ids import ShortIds

CLASS = Pointer(0, 0x7F0000001000, PointerKind.CLASS, "Session")
IDS = ShortIds(())
BLOCK = Pointer(16, 0x560000002000, PointerKind.BLOCK, "Node", "6f1d2a90c41b7e55", 8)
HANDLER = Pointer(8, 0x7F0000002000, PointerKind.FUNCTION, "on_event")
DATA = bytes(range(16)) + b"GET /api/".ljust(64, b"\xff")


def block(**changes: object) -> BlockContents:
    one = BlockContents(
        0x560000001000,
        len(DATA),
        250_000_000_000,
        DATA,
        (Text(16, "GET /api/", 9),),
        (CLASS, HANDLER, BLOCK),
    )
    return replace(one, **changes)  # type: ignore[arg-type]


SHARED = (
    Shared(SharedKind.SIZE, 300, 300, size_bytes=80),
    Shared(SharedKind.POINTER, 300, 300, 0, pointer=CLASS),
    Shared(SharedKind.POINTER, 299, 300, 16, pointer=BLOCK),
    Shared(SharedKind.TEXT, 298, 300, 16, text="GET /api/"),
)


def report(contents: SiteContents) -> Report:
    site = replace(PARSE_SITE, contents=contents)
    return replace(BUSY, sites=(site,), contents=ContentsInfo(("process 7 has ended",)))


def lines(contents: SiteContents, width: int = 80) -> list[str]:
    return [one.plain for one in contents_lines(contents, width, IDS)]


def test_text() -> None:
    shown = lines(SiteContents(300, 2, SHARED, (block(), block(address=0x10))))
    assert shown == [
        "    contents of the oldest 300 blocks (2 freed while they were read, left out)",
        "      all 300 have 80 bytes",
        "      all 300 begin with the vtable of Session",
        "      299 of 300 hold at +0x10 a pointer to a Node block of site 6f1d2a at +0x08",
        '      298 of 300 hold at +0x10 text that begins with "GET /api/"',
        "    0x560000001000   80 bytes   4m10s old",
        "      +0x00  00 01 02 03 04 05 06 07  08 09 0a 0b 0c 0d 0e 0f  ................",
        "      +0x10  47 45 54 20 2f 61 70 69  2f ff ff ff ff ff ff ff  GET /api/.......",
        "      +0x20  ff ff ff ff ff ff ff ff  ff ff ff ff ff ff ff ff  ................",
        "      +0x30  ff ff ff ff ff ff ff ff  ff ff ff ff ff ff ff ff  ................",
        "      +0x00  the vtable of Session",
        "      +0x08  a pointer to the function on_event",
        "      +0x10  a pointer to a Node block of site 6f1d2a at +0x08",
        '      +0x10  text "GET /api/"',
    ]


def test_blocks_that_share_nothing_are_all_shown() -> None:
    shown = lines(SiteContents(2, 0, (), (block(), block(address=0x10))))
    assert shown[0] == "    contents of the oldest 2 blocks"
    assert shown[-2:] == [
        "    0x10   80 bytes   4m10s old",
        "      the same as in 0x560000001000",
    ]


@pytest.mark.parametrize("width", [36, 40, 60, 80, 200])
def test_no_line_is_too_wide(width: int) -> None:
    long = Pointer(0, 1, PointerKind.CLASS, "std::map<int, " * 200 + ">")
    contents = SiteContents(
        300,
        2,
        (*SHARED, Shared(SharedKind.TEXT, 1, 2, 8, text="x" * 250)),
        (block(pointers=(long,)),),
    )
    assert max(cell_len(line) for line in lines(contents, width)) <= width


def test_blocks_that_are_not_in_memory() -> None:
    absent = block(data=b"", texts=(), pointers=())
    shown = lines(SiteContents(2, 0, (), (absent, absent)))
    assert shown.count("      not in memory: never touched, or swapped out") == 2


def test_many_names_are_bounded() -> None:
    many = tuple(replace(CLASS, offset=at) for at in range(0, 256, 8))
    shown = lines(SiteContents(1, 0, (), (block(pointers=many),)))
    assert shown[-1] == "      ... 21 more pointers and texts"


@pytest.mark.parametrize(
    ("shared", "words"),
    [
        (Shared(SharedKind.ABSENT, 3, 3), "all 3 are not in memory: never touched, or swapped out"),
        (Shared(SharedKind.ZERO, 3, 3, size_bytes=256), "all 3 are zero, as far as they were read"),
        (Shared(SharedKind.SAME, 9, 10, size_bytes=8), "9 of 10 have the same first 8 bytes"),
        (Shared(SharedKind.TEXT, 9, 10, 8), "9 of 10 hold at +0x08 text"),
        (Shared(SharedKind.TEXT, 9, 10), "9 of 10 begin with text"),
    ],
)  # fmt: skip
def test_sentences(shared: Shared, words: str) -> None:
    assert sentence(shared).startswith(words)


def test_json_has_all_of_it(repository: Path) -> None:
    value = json.loads(rendered("json", report(SiteContents(300, 2, SHARED, (block(pid=7),)))))
    schema = json.loads((repository / "docs/schema/report-1.schema.json").read_text())
    jsonschema.validate(value, schema)
    assert value["contents"] == {"problems": ["process 7 has ended"]}
    contents = value["sites"][0]["contents"]
    assert (contents["read_count"], contents["gone_count"]) == (300, 2)
    assert [one["sentence"] for one in contents["shared"]] == list(map(sentence, SHARED))
    (one,) = contents["blocks"]
    assert bytes.fromhex(one["hex"]) == DATA
    assert one["pointers"][2] == {
        "offset": 16,
        "value": "0x560000002000",
        "kind": "block",
        "name": "Node",
        "site": "6f1d2a90c41b7e55",
        "into": 8,
        "own": False,
    }
    for name in contents:
        lacks = {key: contents[key] for key in contents if key != name}
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(
                value | {"sites": [value["sites"][0] | {"contents": lacks}]}, schema
            )


def test_nothing_of_it_appears_unless_it_was_asked() -> None:
    assert "contents" not in json.loads(rendered("json", BUSY))
    assert "contents" not in json.loads(rendered("json", BUSY))["sites"][0]
    assert "contents" not in rendered("text", BUSY)


@pytest.mark.parametrize("format_name", ["text", "json"])
def test_hostile_content_stays_content(format_name: str) -> None:
    attack = "\x1b]0;owned\x07\n\u202e\u2028\udcff\x9b31m"
    pointers = tuple(Pointer(0, 1, kind, attack, attack) for kind in PointerKind)
    contents = SiteContents(
        2,
        0,
        (
            Shared(SharedKind.TEXT, 2, 2, 0, text=attack),
            *(Shared(SharedKind.POINTER, 2, 2, 0, pointer=one) for one in pointers),
        ),
        (
            block(
                data=attack.encode("utf-8", "replace"),
                texts=(Text(0, attack, 9),),
                pointers=pointers,
            ),
        ),
    )
    shown = rendered(format_name, report(contents))
    plain = json.loads(shown)["sites"][0]["contents"] if format_name == "json" else None
    text = shown if plain is None else "".join(map(str, plain["shared"] + plain["blocks"]))
    assert all(line.isprintable() for line in text.splitlines())
    assert "\u2028" not in text


def test_a_hexdump_is_that_of_hexdump(tmp_path: Path, require_tool: Callable[[str], str]) -> None:
    data = bytes(range(256)) + b"the end"
    path = tmp_path / "data"
    path.write_bytes(data)
    command = [require_tool("hexdump"), "-v", "-C", str(path)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    ours = [f"{at:08x}  {text}" for at, text in hexdump(data)]
    # It frames the text.
    theirs = [line.replace(" |", " ", 1)[:-1] if "|" in line else "" for line in told.splitlines()]
    assert ours == theirs[:-1]
