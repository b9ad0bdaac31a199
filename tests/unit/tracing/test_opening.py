"""What was opened is closed when a later part fails, and only then."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from leaktrace.tracing.opening import closed_on_failure


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_closed_when_the_body_raises(error: type[BaseException]) -> None:
    closed: list[str] = []
    with pytest.raises(error), closed_on_failure() as stack:
        stack.callback(closed.append, "first")
        stack.callback(closed.append, "second")
        raise error
    assert closed == ["second", "first"]


def test_open_until_its_owner_closes_it() -> None:
    closed: list[str] = []

    def opened() -> ExitStack:
        with closed_on_failure() as stack:
            stack.callback(closed.append, "part")
            return stack

    owner = opened()
    assert closed == []
    owner.close()
    assert closed == ["part"]
