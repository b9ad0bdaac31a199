"""The ranking of processes, in each format."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from rich.cells import cell_len
from sample_rankings import BUSY_MACHINE, MIB, POSTGRES, RANKINGS, WORKER, rendered_ranking

from leaktrace.ranks import MachineMemory
from leaktrace.report import RANKING_FORMATS
from leaktrace.report.ranking_text import ranking_lines

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("format_name", RANKING_FORMATS)
@pytest.mark.parametrize("name", RANKINGS)
def test_ranking_is_as_recorded(name: str, format_name: str) -> None:
    path = GOLDEN / f"ranking-{name}.{format_name}"
    actual = rendered_ranking(format_name, RANKINGS[name])
    if os.environ.get("LEAKTRACE_UPDATE_GOLDEN") == "1":
        path.write_text(actual, encoding="utf-8")
    assert actual == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
@pytest.mark.parametrize("command", ["worker", "漢字" * 7, "\x1b]0;owned\x07", "a b\n(c)", ""])
def test_no_line_is_wider_than_the_terminal(width: int, command: str) -> None:
    one = replace(WORKER, command=command, pid=4_194_303, unit="u" * 200)
    found = replace(BUSY_MACHINE, processes=(one, POSTGRES))
    lines = [line.plain for line in ranking_lines(found, width, ["note " * 40], explain=True)]
    assert max(map(cell_len, lines)) <= width
    assert all(line.isprintable() for line in lines)


def test_a_wide_terminal_shows_the_unit() -> None:
    lines = [line.plain for line in ranking_lines(BUSY_MACHINE, 120, [], explain=False)]
    assert any("worker (shop.service)" in line for line in lines if not line.startswith("growing"))


def test_a_note_is_shown_once() -> None:
    found = replace(BUSY_MACHINE, notes=("this once",))
    assert rendered_ranking("text", found, found).count("this once") == 1
    assert rendered_ranking("json", found, found).count("this once") == 2


def test_the_kernel_is_named_only_where_it_has_grown_much() -> None:
    def shows(growth: MachineMemory) -> bool:
        return "leaktrace --kernel" in rendered_ranking(
            "text", replace(BUSY_MACHINE, machine_growth=growth)
        )

    assert shows(MachineMemory(slab=8 * MIB))
    assert not shows(MachineMemory(slab=8 * MIB - 1))
    assert shows(MachineMemory(anonymous=100 * MIB, slab=25 * MIB))
    assert not shows(MachineMemory(anonymous=100 * MIB, slab=24 * MIB))


def test_the_option_that_traces_the_grown_part_is_named() -> None:
    found = replace(BUSY_MACHINE, machine_growth=MachineMemory(slab=MIB, vmalloc=64 * MIB))
    text = rendered_ranking("text", found)
    assert "leaktrace --kernel --vmalloc\n" in text


def test_one_that_grows_now_is_named_beside_one_that_has_stopped() -> None:
    stopped = replace(WORKER, since_previous_bytes=0)
    growing = replace(POSTGRES, since_previous_bytes=2 * MIB)
    text = rendered_ranking("text", replace(BUSY_MACHINE, processes=(stopped, growing)))
    assert "growing most: worker (pid 4242" in text
    assert "most since the previous report: postgres (pid 99777): +2.0 MiB" in text
    assert "leaktrace -p 99777" in text
    assert "most since" not in rendered_ranking("text", BUSY_MACHINE)


def test_there_is_no_rate_within_the_first_second() -> None:
    found = replace(BUSY_MACHINE, processes=(replace(WORKER, watched_s=0.04),))
    assert "per minute" not in rendered_ranking("text", found)


def test_small_growth_is_no_verdict() -> None:
    one = replace(
        WORKER,
        growth=replace(
            WORKER.growth, resident=replace(WORKER.growth.resident, anonymous=MIB - 4096)
        ),
    )
    text = rendered_ranking("text", replace(BUSY_MACHINE, processes=(one,)))
    assert "growing most" not in text
    assert "no process has grown" in text
    assert "4242" in text  # the table has it anyway


@pytest.mark.parametrize("name", RANKINGS)
def test_json_follows_its_schema(name: str, repository: Path) -> None:
    schema = json.loads((repository / "docs/schema/ranking-1.schema.json").read_text())
    value = json.loads(rendered_ranking("json", RANKINGS[name]))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(value, schema)
    for key in value:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({other: value[other] for other in value if other != key}, schema)
    assert value.keys() == schema["properties"].keys()
    for row in value["processes"]:
        assert row.keys() == schema["properties"]["processes"]["items"]["properties"].keys()
