"""Both analyses of a function: where values come from, and where its result is."""

from __future__ import annotations

from collections.abc import Callable

from leaktrace.process.probes.code.backward import backward
from leaktrace.process.probes.code.flow import Flow
from leaktrace.process.probes.code.forward import check_stack, forward, mark
from leaktrace.process.probes.code.values import Values


def analyse(flow: Flow, extent_of: Callable[[int], object], *, narrow_result: bool) -> Values:
    """All of it. `extent_of`: which function an address lies in; `narrow_result`: only the lower
    half of rax is returned, an int.

    Raises UnfollowableError where the stack pointer can't be followed.
    """
    values = Values()
    # Once some address in the frame is handed around, others may write there.
    escaped = forward(flow, values, escaped=False)
    if escaped:
        forward(flow, values, escaped=True)
    check_stack(flow, values)
    mark(flow, values, extent_of)
    backward(flow, values, escaped=escaped, narrow=narrow_result)
    return values
