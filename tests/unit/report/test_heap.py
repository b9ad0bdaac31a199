"""Reports of `leaktrace heap`, in each format."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from rich.cells import cell_len
from sample_heaps import HEAPS, LOST, SESSIONS, rendered_heaps

from leaktrace.heap_report import Account, AccountPart, Amount, GroupKind
from leaktrace.reach import HolderKind
from leaktrace.report import HEAP_FORMATS
from leaktrace.report.heap_text import heap_lines

GOLDEN = Path(__file__).parent / "golden"
HUGE = (1 << 60) - 1


@pytest.mark.parametrize("format_name", HEAP_FORMATS)
@pytest.mark.parametrize("name", HEAPS)
def test_report_is_as_recorded(name: str, format_name: str) -> None:
    path = GOLDEN / f"heap-{name}.{format_name}"
    actual = rendered_heaps(format_name, HEAPS[name])
    if os.environ.get("LEAKTRACE_UPDATE_GOLDEN") == "1":
        path.write_text(actual, encoding="utf-8")
    assert actual == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
@pytest.mark.parametrize(
    "name", ["worker", "漢字" * 70, "\x1b]0;owned\x07", "a b\n(c)", "", "\udcff"]
)
def test_no_line_is_wider_than_the_terminal(width: int, name: str) -> None:
    groups = tuple(
        replace(
            SESSIONS,
            kind=kind,
            name=name,
            text=name,
            least_bytes=1 << 40,
            most_bytes=1 << 47,
            amount=Amount(HUGE, HUGE),
            since_first=Amount(1 << 40, 1 << 50),
        )
        for kind in GroupKind
    )
    report = replace(
        LOST,
        command=name,
        core=name,
        groups=groups,
        lost_groups=groups,
        since_first=Amount(HUGE, HUGE),
        account=Account(HUGE, tuple((part, HUGE) for part in AccountPart), HUGE),
        notes=("note " * 40,),
    )
    for shown in (report, replace(report, problems=("problem " * 30,))):
        lines = [line.plain for line in heap_lines(shown, width)]
        assert max(map(cell_len, lines)) <= width
        assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize("name", HEAPS)
def test_json_is_as_the_schema_says(name: str, repository: Path) -> None:
    schema = json.loads((repository / "docs/schema/heap-1.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    value = json.loads(rendered_heaps("json", HEAPS[name]))
    jsonschema.Draft202012Validator(schema).validate(value)
    assert set(value) == set(schema["properties"])


def test_kinds_of_steps_are_those_of_the_schema(repository: Path) -> None:
    schema = json.loads((repository / "docs/schema/heap-1.schema.json").read_text())
    step = schema["$defs"]["holder_step"]["properties"]
    assert set(step["kind"]["enum"]) == set(HolderKind) - {HolderKind.BLOCK}
    assert set(step["group"]["enum"]) == set(GroupKind)


def test_no_figures_of_a_heap_that_is_not_whole() -> None:
    value = json.loads(rendered_heaps("json", HEAPS["broken"]))
    assert value["heap"] is None
    text = rendered_heaps("text", HEAPS["broken"])
    assert "not whole: arena 2" in text
    assert "blocks" not in text
