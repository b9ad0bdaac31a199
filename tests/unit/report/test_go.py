"""Reports of `leaktrace go`, in each format."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from rich.cells import cell_len
from sample_go import GO_REPORTS, GROWING, HEAP, REFILLS, SINGLE, STUCK, rendered_go

from leaktrace.go_report import GoLine, TypeKey
from leaktrace.report import GO_FORMATS
from leaktrace.report.go_text import go_lines

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("format_name", GO_FORMATS)
@pytest.mark.parametrize("name", GO_REPORTS)
def test_report_is_as_recorded(name: str, format_name: str) -> None:
    path = GOLDEN / f"go-{name}.{format_name}"
    actual = rendered_go(format_name, GO_REPORTS[name])
    if os.environ.get("LEAKTRACE_UPDATE_GOLDEN") == "1":
        path.write_text(actual, encoding="utf-8")
    assert actual == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
@pytest.mark.parametrize(
    "name", ["main.f", "漢字" * 70, "\x1b]0;owned\x07", "a b\n(c)", "", "m/" * 2000, "\udcff"]
)
def test_no_line_is_wider_than_the_terminal(width: int, name: str) -> None:
    line = GoLine(name, name, (1 << 31) - 1, is_inlined=True)
    growth = replace(
        STUCK.growth,
        key=STUCK.growth.key._replace(state=name),
        count=1 << 40,
        growth_per_s=-1e12,
        longest_wait_ns=1 << 60,
        stack_bytes=1 << 60,
    )
    group = replace(
        STUCK, growth=growth, frames=(line, *[line] * 30, STUCK.frames[2]), created_by=line
    )
    for base in (GROWING, SINGLE):
        section = replace(base.goroutines, groups=(group,), stack_bytes=1 << 60)
        kind = replace(HEAP.types[0], key=TypeKey(name, 8))
        site = replace(HEAP.sites[0], frames=(line,))
        sampled = replace(REFILLS.sites[1], frames=(line,), bytes_per_s=1e15)
        refills = replace(REFILLS, sites=(sampled, *REFILLS.sites[2:]), site_count=1 << 40)
        heap = replace(
            HEAP,
            types=(kind,),
            sites=(site,),
            type_count=1 << 40,
            refills=refills if base is SINGLE else None,
        )
        report = replace(
            base, goroutines=section, command=name, version=name, notes=("note " * 40,), heap=heap
        )
        lines = [line.plain for line in go_lines(report, width)]
        assert max(map(cell_len, lines)) <= width
        assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize("name", GO_REPORTS)
def test_json_is_as_the_schema_says(name: str, repository: Path) -> None:
    schema = json.loads((repository / "docs/schema/go-1.schema.json").read_text())
    value = json.loads(rendered_go("json", GO_REPORTS[name]))
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    validator.validate(value)
    assert set(value) == set(schema["properties"]) == set(schema["required"])


def test_recursion_takes_one_line() -> None:
    line = GoLine("main.deep", "/src/deep.go", 9)
    group = replace(STUCK, frames=(*STUCK.frames[:2], *[line] * 60, *STUCK.frames[4:]))
    report = replace(GROWING, goroutines=replace(GROWING.goroutines, groups=(group,)))
    text = rendered_go("text", report)
    assert text.count("main.deep") == 2  # and as what the goroutine began with
    assert "× 60" in text


def test_a_profile_that_knows_little_of_the_heap() -> None:
    profile = HEAP.look.profile
    assert profile is not None
    (key,) = profile.sites
    few = {key: replace(profile.sites[key], in_use_bytes=1 << 20)}
    look = replace(HEAP.look, profile=replace(profile, sites=few))
    report = replace(GROWING, heap=replace(HEAP, look=look))
    shown = " ".join(line.plain.strip() for line in go_lines(report, 200))
    assert "they have 1.0 MiB of 90.5 MiB in use" in shown
    assert "before the profile was on" in shown
