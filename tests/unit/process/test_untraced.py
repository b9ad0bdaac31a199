"""The notes about children that should be followed and are not traced."""

from __future__ import annotations

import pytest

from leaktrace.process import notes
from leaktrace.process.untraced import Untraced


def test_nothing_to_say() -> None:
    assert not Untraced()
    assert list(notes.of_untraced(Untraced())) == []


@pytest.mark.parametrize(
    ("untraced", "figure", "word"),
    [
        (Untraced(too_many=1234), "1,234", "--max-processes"),
        (Untraced(ended=5), "5", "ended"),
        (Untraced(refused={"the kernel said no": 7}), "7", "the kernel said no"),
    ],
    ids=["too many", "ended", "refused"],
)
def test_each_reason_has_its_figure(untraced: Untraced, figure: str, word: str) -> None:
    assert untraced
    (note,) = notes.of_untraced(untraced)
    assert note.startswith(f"{figure} ")
    assert word in note


def test_all_reasons_at_once() -> None:
    untraced = Untraced(too_many=1, ended=2, refused={"one": 3, "another": 4})
    assert [note.split()[0] for note in notes.of_untraced(untraced)] == ["1", "2", "3", "4"]


def test_children_that_are_not_followed() -> None:
    assert "has started 1,200 child processes" in notes.of_children(0, 1200)
    assert "has started 1 child process " in notes.of_children(0, 1)
    assert "-p 77 " in notes.of_children(77, 0)
