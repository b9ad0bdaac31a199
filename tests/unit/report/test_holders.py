"""What holds the blocks of a site, in words and as JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from sample_reports import PARSE_SITE

from leaktrace.reach import Holder, HolderKind, HolderStep
from leaktrace.report.holders import holder_lines, holder_objects
from leaktrace.report.site_ids import ShortIds

HTTPD = "/usr/sbin/httpd"
VARIABLE = HolderStep(HolderKind.VARIABLE, name="sessions", module=HTTPD, offset=0, last_offset=0)
TABLE = HolderStep(
    HolderKind.BLOCK, name="new_table", site="1bbf67f2311ec2e2", offset=0, last_offset=2040
)
OWN = HolderStep(HolderKind.BLOCK, name="parse_header", site=PARSE_SITE.id)
THREAD = HolderStep(HolderKind.STACK, thread=4711, thread_name="worker")


def words(*path: HolderStep) -> str:
    site = replace(PARSE_SITE, holders=(Holder((*path, OWN), 3, 300, 3),))
    (line,) = holder_lines(site.holders, 200, ShortIds(()))
    text = line.plain
    assert text.startswith("    held by ")
    assert text.endswith(": 3 of 3")
    return text.removeprefix("    held by ").removesuffix(": 3 of 3")


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (VARIABLE, "sessions [httpd]"),
        (replace(VARIABLE, offset=8, last_offset=8), "sessions [httpd] +0x8"),
        (replace(VARIABLE, last_offset=24), "sessions [httpd] +0x0…0x18"),
        (
            HolderStep(HolderKind.DATA, name=".bss", module=HTTPD, module_offset=0x4F20),
            ".bss at 0x4f20 [httpd]",
        ),
        (HolderStep(HolderKind.DATA, module=HTTPD, module_offset=16), "data at 0x10 [httpd]"),
        (
            HolderStep(HolderKind.DATA, module=HTTPD, offset=8, last_offset=8),
            "data [httpd] +0x8",
        ),
        (replace(THREAD, kind=HolderKind.TLS), "thread-local storage of thread 4711 (worker)"),
        (
            replace(THREAD, kind=HolderKind.TLS, name="cache", module=HTTPD),
            "thread-local cache of thread 4711 (worker) [httpd]",
        ),
        (THREAD, "stack of thread 4711 (worker)"),
        (
            HolderStep(HolderKind.STACK, name="run", thread=4711),
            "stack of thread 4711 in run",
        ),
        (replace(THREAD, kind=HolderKind.REGISTER), "register of thread 4711 (worker)"),
        (HolderStep(HolderKind.UNTRACKED), "malloc memory without a record"),
        (
            HolderStep(HolderKind.UNTRACKED, offset=0, last_offset=0, name="shop::Session"),
            "a shop::Session without a record",
        ),
        (
            HolderStep(
                HolderKind.UNTRACKED, offset=8, last_offset=8, name="shop::Session", repeats=True
            ),
            "a list or tree of shop::Session without a record +0x8",
        ),
        (HolderStep(HolderKind.MAPPING, name="0x7f00"), "mapped memory 0x7f00"),
        (HolderStep(HolderKind.SHARED, name="/memfd:x"), "shared memory /memfd:x"),
    ],
)
def test_roots(step: HolderStep, expected: str) -> None:
    assert words(step) == expected


def test_steps() -> None:
    assert words(VARIABLE, TABLE) == "sessions [httpd] → block of new_table 1bbf67 +0x0…0x7f8"
    nodes = replace(TABLE, repeats=True, offset=8, last_offset=8)
    assert words(VARIABLE, nodes) == ("sessions [httpd] → list or tree of new_table 1bbf67 +0x8")
    old = HolderStep(HolderKind.UNTRACKED, offset=16, last_offset=16)
    assert words(VARIABLE, old) == "sessions [httpd] → a block without a record +0x10"
    unnamed = replace(TABLE, name=None, offset=None, last_offset=None)
    assert words(VARIABLE, unnamed) == "sessions [httpd] → block of an unknown function 1bbf67"


def test_blocks_that_lead_to_more_of_their_own() -> None:
    own = replace(OWN, repeats=True, offset=0, last_offset=0)
    site = replace(PARSE_SITE, holders=(Holder((VARIABLE, own), 12_288, 9, 12_288),))
    (line,) = holder_lines(site.holders, 200, ShortIds(()))
    assert line.plain == (
        "    held by sessions [httpd] → list or tree of its blocks: 12,288 of 12,288"
    )


def test_several_ways() -> None:
    ways = [Holder((VARIABLE, OWN), count, 10, 100) for count in (40, 20, 15, 5)]
    site = replace(PARSE_SITE, holders=(*ways, Holder((), 1, 10, 100)))
    assert [line.plain for line in holder_lines(site.holders, 200, ShortIds(()))] == [
        "    held by sessions [httpd]: 40 of 100",
        "    held by sessions [httpd]: 20 of 100",
        "    held by sessions [httpd]: 15 of 100",
        "    held by others: 25",
    ]
    unknown = replace(PARSE_SITE, holders=(Holder((), 100, 10, 100),))
    assert [line.plain for line in holder_lines(unknown.holders, 200, ShortIds(()))] == [
        "    held by something unknown: 100 of 100"
    ]
    assert not list(holder_lines(PARSE_SITE.holders, 200, ShortIds(())))


def test_names_are_printed_without_control_characters() -> None:
    hostile = "\x1b[2J\n"
    site = replace(
        PARSE_SITE,
        holders=(
            Holder(
                (
                    replace(VARIABLE, name=hostile, module=hostile),
                    HolderStep(HolderKind.STACK, name=hostile, thread=1, thread_name=hostile),
                    replace(TABLE, name=hostile),
                    OWN,
                ),
                1,
                1,
                1,
            ),
        ),
    )
    texts = [line.plain for line in holder_lines(site.holders, 200, ShortIds(()))]
    for text in (*texts, json.dumps(holder_objects(site.holders), ensure_ascii=False)):
        assert "\x1b" not in text
        assert "\n" not in text


def test_json(repository: Path) -> None:
    schema = json.loads((repository / "docs/schema/report-1.schema.json").read_text())
    path = (
        VARIABLE,
        HolderStep(HolderKind.DATA, name=".bss", module=HTTPD, module_offset=0x4F20),
        replace(THREAD, name="x"),
        replace(THREAD, kind=HolderKind.TLS),
        HolderStep(HolderKind.REGISTER, thread=1),
        *(HolderStep(kind) for kind in (HolderKind.UNTRACKED, HolderKind.MAPPING)),
        HolderStep(HolderKind.SHARED, name="/memfd:x"),
        replace(TABLE, repeats=True, to_middle=True),
        OWN,
    )
    assert {step.kind for step in path} == set(HolderKind) - {HolderKind.GROUP}
    site = replace(PARSE_SITE, holders=(Holder(path, 3, 300, 4), Holder((), 1, 100, 4)))
    first, second = holder_objects(site.holders)
    for one in (first, second):
        jsonschema.validate(one, {"$ref": "#/$defs/holder", "$defs": schema["$defs"]})
        for step in one["path"]:
            known = schema["$defs"]["holder_step"]["properties"]
            assert set(step) <= set(known)
    assert first["path"][0] == {
        "kind": "variable",
        "name": "sessions",
        "module": HTTPD,
        "offset": 0,
        "last_offset": 0,
        "to_middle": False,
    }
    assert first["path"][-2]["repeats"]
    assert first["path"][1]["module_offset"] == "0x4f20"
    assert (first["count"], first["of_count"], first["bytes"]) == (3, 4, 300)
    assert second["path"] == []
