"""Options that say how much room there is for what is traced, and what it may cost."""

from __future__ import annotations

import click

from leaktrace.cli.values import PositiveNumber, WholeNumber, together
from leaktrace.options import EventBuffer, Limits

_MOST_ENTRIES = 1 << 31  # that a BPF map can take

limit_options = together(
    click.option(
        "--max-allocs",
        type=WholeNumber(1, _MOST_ENTRIES),
        default=Limits.max_allocs,
        show_default=True,
        metavar="N",
        help="Room for N outstanding allocations. What does not fit is counted as lost.",
    ),
    click.option(
        "--max-stacks",
        type=WholeNumber(1, _MOST_ENTRIES),
        default=Limits.max_stacks,
        show_default=True,
        metavar="N",
        help="Room for N different stacks. With --kernel the default is 32768.",
    ),
    click.option(
        "--max-threads",
        type=WholeNumber(1, _MOST_ENTRIES),
        default=Limits.max_threads,
        show_default=True,
        metavar="N",
        help="Room for N threads at a time.",
    ),
    click.option(
        "--max-overhead",
        "max_overhead_percent",
        type=PositiveNumber(),
        metavar="PERCENT",
        help="Keep the cost of tracing below this share of the process's CPU time. Above the "
        "limit for three intervals, leaktrace records one allocation in 10; after three more, it "
        "writes a final report and detaches. A cost below 1 % of one CPU is always accepted.",
    ),
)

event_buffer_options = together(
    click.option(
        "--event-buffer",
        type=click.Choice([choice.value for choice in EventBuffer]),
        default=EventBuffer.AUTO.value,
        show_default=True,
        help="Pass events to leaktrace through a BPF ring buffer, or through perf buffers on "
        "kernels before 5.8.",
    ),
    click.option(
        "--event-buffer-size",
        type=WholeNumber(4096, _MOST_ENTRIES),
        default=Limits.event_buffer_bytes,
        show_default=True,
        metavar="BYTES",
        help="Size of the buffer for events of --trace. The buffer for events of mmap is half as "
        "large.",
    ),
)
