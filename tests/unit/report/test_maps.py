"""Reports of `leaktrace maps`, in each format."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from rich.cells import cell_len
from sample_maps import ARENA, DATA, GROWING, MAPS, MIB, SINGLE, rendered_maps

from leaktrace.memory_map import KIND_NAMES, Figures, KindLine, MapKind, RangeGrowth
from leaktrace.report import MAPS_FORMATS
from leaktrace.report.maps_text import maps_lines

GOLDEN = Path(__file__).parent / "golden"
HUGE = Figures(*[(1 << 60) - 1] * 7)


@pytest.mark.parametrize("format_name", MAPS_FORMATS)
@pytest.mark.parametrize("name", MAPS)
def test_report_is_as_recorded(name: str, format_name: str) -> None:
    path = GOLDEN / f"maps-{name}.{format_name}"
    actual = rendered_maps(format_name, MAPS[name])
    if os.environ.get("LEAKTRACE_UPDATE_GOLDEN") == "1":
        path.write_text(actual, encoding="utf-8")
    assert actual == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
@pytest.mark.parametrize(
    "name", ["worker", "漢字" * 70, "\x1b]0;owned\x07", "a b\n(c)", "", "/" + "d/" * 2000, "\udcff"]
)
def test_no_line_is_wider_than_the_terminal(width: int, name: str) -> None:
    one = replace(ARENA, name=name, end=(1 << 64) - 1, figures=HUGE)
    report = replace(
        GROWING,
        command=name,
        total=HUGE,
        since_first=HUGE,
        since_previous=HUGE,
        kinds=tuple(KindLine(kind, 1, HUGE, HUGE, HUGE) for kind in MapKind),
        grown=(RangeGrowth(one, 1 << 59, -(1 << 59), is_new=True),),
        largest=(one,),
        notes=("note " * 40,),
    )
    for shown in (report, replace(report, since_first=None, since_previous=None)):
        lines = [line.plain for line in maps_lines(shown, width)]
        assert max(map(cell_len, lines)) <= width
        assert all(line.isprintable() for line in lines)


def test_every_column_fits_a_usual_terminal() -> None:
    """Figures of up to 1,023 of a unit."""
    figures = Figures(1023 * MIB, 1023 * MIB, 1023 * MIB)
    report = replace(
        GROWING,
        total=figures,
        since_first=figures,
        since_previous=figures,
        kinds=tuple(KindLine(kind, 1, figures, figures, figures) for kind in MapKind),
    )
    (head,) = [line.plain for line in maps_lines(report, 80) if line.plain.startswith("kind")]
    assert head.split() == ["kind", "RSS", "growth", "since", "prev.", "PSS", "reserved"]


def test_every_kind_has_a_name() -> None:
    assert set(KIND_NAMES) == set(MapKind)
    assert len(set(KIND_NAMES.values())) == len(MapKind)


def test_swapped_memory_has_a_column_only_where_there_is_some() -> None:
    without = replace(SINGLE, total=replace(SINGLE.total, swapped=0))
    assert "swapped" in rendered_maps("text", SINGLE)
    assert "swapped" not in rendered_maps("text", without).split("mappings that hold most")[0]


@pytest.mark.parametrize("name", MAPS)
def test_json_follows_its_schema(name: str, repository: Path) -> None:
    schema = json.loads((repository / "docs/schema/maps-1.schema.json").read_text())
    value = json.loads(rendered_maps("json", MAPS[name]))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(value, schema)
    for key in value:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({other: value[other] for other in value if other != key}, schema)
    properties = schema["properties"]
    assert value.keys() == properties.keys()
    for rows in ("kinds", "largest", "grown"):
        for row in value[rows]:
            assert row.keys() == properties[rows]["items"]["properties"].keys()
    assert value["total"].keys() == properties["total"]["properties"].keys()


def test_json_names_are_printable() -> None:
    value = json.loads(rendered_maps("json", replace(GROWING, command="\x1b[2J\udcff")))
    assert value["command"] == r"\x1b[2J\xff"
    assert value["grown"][1]["name"] == r"/var/lib/shop/prices\nof today.db"
    assert DATA.name != value["grown"][1]["name"]
