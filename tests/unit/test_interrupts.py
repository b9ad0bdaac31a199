"""Signals that end a run: the first one in order, a second one at once."""

from __future__ import annotations

import os
import signal

import pytest

from leaktrace.cli_errors import guarded
from leaktrace.interrupts import ENDING, Interrupts


@pytest.mark.parametrize("number", ENDING)
def test_the_first_is_waited_for_and_the_second_ends_at_once(number: signal.Signals) -> None:
    before = signal.signal(number, signal.SIG_DFL)
    try:
        with Interrupts() as interrupts:
            os.kill(os.getpid(), number)
            assert interrupts.received == number
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), number)
    finally:
        signal.signal(number, before)


def test_a_second_one_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    assert guarded(interrupted, ()) == 130
    message, hint = capsys.readouterr().err.splitlines()
    assert "no last report" in message
    assert hint.startswith("  hint: ")
