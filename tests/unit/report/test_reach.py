"""What a look at the memory has left out: in words, and as JSON."""

from __future__ import annotations

from leaktrace.reach import LostShare, ReachInfo
from leaktrace.report.reach import reach_lines, reach_object


def lines(reach: ReachInfo) -> str:
    return " ".join(" ".join(line.plain for line in reach_lines(reach, 200)).split())


def test_new_blocks_that_were_not_read() -> None:
    reach = ReachInfo(LostShare(), 0, 0, late_unread_count=3, late_unread_bytes=5 << 20)
    assert "3 new blocks (5.0 MiB)" in lines(reach)
    found = reach_object(reach)
    assert (found["late_unread_count"], found["late_unread_bytes"]) == (3, 5 << 20)


def test_words_that_were_not_kept() -> None:
    reach = ReachInfo(LostShare(), 0, 0, unkept_words=70_000)
    assert "70,000 words" in lines(reach)
    assert reach_object(reach)["unkept_words"] == 70_000


def test_nothing_was_left_out() -> None:
    assert lines(ReachInfo(LostShare(), 0, 0)) == ""
