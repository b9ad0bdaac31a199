"""Who is killed first when memory runs out."""

from __future__ import annotations

from pathlib import Path

import pytest

from leaktrace.own.oom import first_victim

SCORE = Path("/proc/self/oom_score_adj")


def test_the_score_is_raised_for_a_while() -> None:
    before = SCORE.read_text()
    with pytest.raises(KeyError), first_victim():
        assert SCORE.read_text() == "1000\n"
        raise KeyError
    assert SCORE.read_text() == before
