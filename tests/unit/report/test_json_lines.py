"""The JSON format: its schemas, its contract, its documented example."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from rendered_samples import EVENTS, REPORTS, rendered, rendered_events
from sample_families import BY_PROCESS, FAMILY
from sample_go import GROWING as GO
from sample_go import HEAP, STUCK, rendered_go
from sample_heaps import LOST, rendered_heaps
from sample_maps import GROWING, rendered_maps
from sample_rankings import BUSY_MACHINE, WORKER, rendered_ranking
from sample_reports import BUSY, HTTPD, LIBPARSE, PARSE_SITE, QUIET, frame

from leaktrace.site import Allocation, Stack


@pytest.fixture
def schemas(repository: Path) -> dict[str, Any]:
    folder = repository / "docs" / "schema"
    return {
        f"leaktrace/{kind}/1": json.loads((folder / f"{kind}-1.schema.json").read_text())
        for kind in ("report", "event")
    }


def validated(text: str, schemas: dict[str, Any]) -> list[dict[str, Any]]:
    objects = [json.loads(line) for line in text.splitlines()]
    for value in objects:
        schema = schemas[value["schema"]]
        jsonschema.Draft202012Validator.check_schema(schema)
        jsonschema.Draft202012Validator(
            schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
        ).validate(value)
    return objects


def test_json_schema_refuses_what_lacks_the_contract_of_several_processes(
    schemas: dict[str, Any],
) -> None:
    schema = schemas["leaktrace/report/1"]
    value = json.loads(rendered("json", BY_PROCESS))
    jsonschema.validate(value, schema)
    for name in ("processes", "by_process"):
        for key in value[name][0]:
            line = {other: value[name][0][other] for other in value[name][0] if other != key}
            with pytest.raises(jsonschema.ValidationError):
                jsonschema.validate(value | {name: [line]}, schema)
    site = value["sites"][0]
    for key in ("pid", "bytes", "count"):
        share = {
            other: site["processes"][0][other] for other in site["processes"][0] if other != key
        }
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(value | {"sites": [site | {"processes": [share]}]}, schema)


def test_json_contract_of_several_processes() -> None:
    value = json.loads(rendered("json", BY_PROCESS))
    assert value["target"]["pids"] == [4242, 4243, 4250]
    assert value["resident"] is None
    ended, line, _ = value["processes"]
    assert (ended["has_ended"], ended["ending"]) == (
        True,
        {"status": None, "signal": 9, "oom_killed": False},
    )
    assert (ended["growth_bytes"], ended["resident"], ended["traced_s"]) == (None, None, 2.25)
    assert (line["pid"], line["parent_pid"], line["command"]) == (4243, 4242, "nginx")
    assert line["outstanding"] == {"bytes": 11_534_336, "count": 11_000}
    assert line["resident"]["growth_bytes"] == 1_363_148
    assert value["sites"][0]["processes"] == [
        {"pid": 4243, "bytes": 10_485_760, "count": 10_240},
        {"pid": 4242, "bytes": 1_048_576, "count": 1_024},
        {"pid": 4250, "bytes": 1_048_576, "count": 1_024},
    ]
    assert [part["pid"] for part in value["by_process"]] == [4250, 4243, 4242]
    assert [len(part["sites"]) for part in value["by_process"]] == [1, 1, 2]
    # What is added up is outstanding.
    for key in ("bytes", "count"):
        total = sum(one["outstanding"][key] for one in value["processes"])
        assert total == value["outstanding"][key]


def test_json_allocations_of_several_processes_say_whose_they_are() -> None:
    one = Allocation(0x1000, 16, 5_000_000, PARSE_SITE.id, pid=4243)
    (shown,) = json.loads(rendered("json", replace(FAMILY, allocations=(one,))))["allocations"]
    assert shown["pid"] == 4243
    assert "pid" not in json.loads(rendered("json", BUSY))["allocations"][0]
    assert " 5ms old  pid 4243\n" in rendered("text", replace(FAMILY, allocations=(one,)))


@pytest.mark.parametrize("name", REPORTS)
def test_json_report_follows_its_schema(name: str, schemas: dict[str, Any]) -> None:
    (value,) = validated(rendered("json", REPORTS[name]), schemas)
    assert value["schema"] == "leaktrace/report/1"


def test_json_events_follow_their_schema(schemas: dict[str, Any]) -> None:
    values = validated(rendered_events("json", *EVENTS), schemas)
    assert [value["kind"] for value in values] == ["alloc", "free", "fail"]
    assert values[1]["bytes"] is None


def test_json_schema_refuses_what_lacks_the_contract(schemas: dict[str, Any]) -> None:
    """Each field of the contract is required and typed."""
    value = json.loads(rendered("json", BUSY))
    schema = schemas["leaktrace/report/1"]
    for key in value.keys() - {"allocations", "loss_details"}:
        without = {other: value[other] for other in value if other != key}
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(without, schema)
    for key in value["sites"][0]:
        site = {other: value["sites"][0][other] for other in value["sites"][0] if other != key}
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(value | {"sites": [site]}, schema)
    jsonschema.validate(value | {"a field of the future": 1}, schema)


def test_json_contract() -> None:
    value = json.loads(rendered("json", BUSY))
    assert value["time"] == "2026-11-24T06:00:00Z"
    assert value["outstanding"] == {"bytes": 16_777_216, "count": 13_000}
    assert value["losses"] == {
        "allocations": 1_234,
        "allocation_bytes": 3_145_728,
        "stacks": 3,
        "missed_returns": 0,
    }
    site = value["sites"][0]
    assert (site["id"], site["oldest_ms"], site["newest_ms"]) == (PARSE_SITE.id, 250_000, 700)
    assert site["frames"][1] == {
        "address": "0x7f3a52c0a1b2",
        "function": "parse_header",
        "offset": 0x2F,
        "module": LIBPARSE,
        "module_offset": "0xa1b2",
        "build_id": "9f3c0a",
        "file": "http/parser.c",
        "line": 118,
        "inlined": False,
    }
    assert site["frames"][0]["inlined"] is True
    assert value["sites"][1]["frames"][1]["unknown"] == "no symbols"
    assert value["sites"][1]["frames"][1]["function"] is None


def test_json_lists_allocations_only_when_asked() -> None:
    assert "allocations" not in json.loads(rendered("json", QUIET))
    assert json.loads(rendered("json", replace(QUIET, allocations=())))["allocations"] == []


def test_json_is_ascii() -> None:
    """So it is valid JSON for any encoding of standard output."""
    site = replace(PARSE_SITE, stack=Stack((frame(0x10, "größe_漢字🙂", 1, HTTPD),)))
    text = rendered("json", replace(BUSY, sites=(site,)))
    assert text.isascii()
    assert json.loads(text)["sites"][0]["frames"][0]["function"] == "größe_漢字🙂"


def test_the_documented_example_is_real(repository: Path, schemas: dict[str, Any]) -> None:
    blocks = re.findall(
        r"```json\n(.*?)```", (repository / "docs" / "json.md").read_text(), flags=re.DOTALL
    )
    report, event, ranking, maps, heap, go = (json.loads(block) for block in blocks)
    assert report == json.loads(rendered("json", replace(BUSY, sites=(PARSE_SITE,))))
    assert event == json.loads(rendered_events("json", EVENTS[0]))
    found = rendered_ranking("json", replace(BUSY_MACHINE, processes=(WORKER,)))
    assert ranking == json.loads(found)
    one = replace(GROWING, kinds=GROWING.kinds[:1], largest=(), grown=GROWING.grown[1:])
    assert maps == json.loads(rendered_maps("json", one))
    look = replace(LOST, groups=LOST.groups[2:3], arenas=LOST.arenas[:1])
    assert heap == json.loads(rendered_heaps("json", look))
    section = replace(GO.goroutines, groups=(replace(STUCK, frames=STUCK.frames[2:4]),))
    part = replace(HEAP, sizes=HEAP.sizes[:1], types=HEAP.types[:1])
    assert go == json.loads(rendered_go("json", replace(GO, goroutines=section, heap=part)))
