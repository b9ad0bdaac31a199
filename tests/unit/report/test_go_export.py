"""Files for other tools of `leaktrace go`, where not each report has a profile of the heap."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace

import pytest
from read_exports import read_folded
from sample_go import GROWING, SAMPLED

from leaktrace.analysis.go_sites import heap_sites
from leaktrace.go_report import GoReport
from leaktrace.options import GoProfile
from leaktrace.report import create_go_reporter

WITH = [replace(GROWING, number=number) for number in (1, 2)]
WITHOUT = [replace(SAMPLED, number=number) for number in (3, 4, 5)]
AGAIN = replace(GROWING, number=6)


def written(reports: Sequence[GoReport]) -> tuple[bytes, list[str]]:
    output, notices = io.TextIOWrapper(io.BytesIO()), io.StringIO()
    reporter = create_go_reporter("folded", output, notices, profile=GoProfile.HEAP)
    for report in reports:
        reporter.go(report)
        assert notices.getvalue() == ""
    reporter.end()
    output.flush()
    told = [line for line in notices.getvalue().splitlines() if "profile of the heap" in line]
    return output.buffer.getvalue(), told


def test_a_profile_that_is_gone_is_told_once() -> None:
    content, told = written([*WITH, *WITHOUT])
    assert told == ["the last report has no profile of the heap: that of report 2 is written"]
    expected = heap_sites(GROWING)
    assert expected is not None
    assert sum(read_folded(content).values()) == sum(site.bytes for site in expected.sites)


def test_one_that_came_again_is_written() -> None:
    content, told = written([*WITH, *WITHOUT, AGAIN])
    assert content and not told


@pytest.mark.parametrize("count", [1, 3])
def test_none_at_all(count: int) -> None:
    content, told = written(WITHOUT[:count])
    assert content == b""
    assert told == [
        "the last report has no profile of the heap, nor had another one: no file is written"
    ]
