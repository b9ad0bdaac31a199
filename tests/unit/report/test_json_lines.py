"""The JSON format: its schemas, its contract, its documented example."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from sample_rankings import BUSY_MACHINE, WORKER, rendered_ranking
from sample_reports import (
    BUSY,
    EVENTS,
    HTTPD,
    LIBPARSE,
    PARSE_SITE,
    QUIET,
    REPORTS,
    frame,
    rendered,
    rendered_events,
)

from leaktrace.model import (
    Stack,
)


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
    for key in value.keys() - {"allocations"}:
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
    report, event, ranking = (json.loads(block) for block in blocks)
    assert report == json.loads(rendered("json", replace(BUSY, sites=(PARSE_SITE,))))
    assert event == json.loads(rendered_events("json", EVENTS[0]))
    found = rendered_ranking("json", replace(BUSY_MACHINE, processes=(WORKER,)))
    assert ranking == json.loads(found)
