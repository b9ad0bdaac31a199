"""What a report says in JSON, the value that is read from it says again."""

from __future__ import annotations

import json

import pytest
from rendered_samples import REPORTS, rendered

from leaktrace.recording.report_values import report_from


@pytest.mark.parametrize("format_name", ["text", "memleak", "json"])
@pytest.mark.parametrize("name", REPORTS)
def test_a_report_that_was_read_from_json_looks_the_same(name: str, format_name: str) -> None:
    line = rendered("json", REPORTS[name])
    again = report_from(json.loads(line))
    assert rendered(format_name, again) == rendered(format_name, REPORTS[name])
