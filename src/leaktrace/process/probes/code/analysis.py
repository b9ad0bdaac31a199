"""Both analyses of a function: where its arguments are, and where its result is."""

from __future__ import annotations

from collections.abc import Callable

from leaktrace.process.probes.code.backward import backward
from leaktrace.process.probes.code.flow import Flow
from leaktrace.process.probes.code.forward import check_stack, forward, mark
from leaktrace.process.probes.code.values import Values


def analyse(flow: Flow, extent_of: Callable[[int], object], *, narrow_result: bool) -> Values:
    """The values of a function. `extent_of`: the function that contains an address;
    `narrow_result`: it returns an int, the lower half of rax.

    Raises UnfollowableError where the stack pointer can't be followed.
    """
    values = Values()
    # Once an address in the frame is passed on, other functions may write there.
    escaped = forward(flow, values, escaped=False)
    if escaped:
        forward(flow, values, escaped=True)
    check_stack(flow, values)
    mark(flow, values, extent_of)
    backward(flow, values, escaped=escaped, narrow=narrow_result)
    return values
