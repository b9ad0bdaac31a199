"""Which processes the command line means.

`leaktrace -p $(pidof worker)` gives several process ids when there are several workers. The words
after the first one would be the interval in seconds and the number of reports. They are processes
if they run the same program.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from leaktrace import units
from leaktrace.cli.values import Pattern, ProcessIds, Seconds, WholeNumber, together
from leaktrace.errors import TargetError, UsageError
from leaktrace.notices import notify
from leaktrace.options import MAX_PROCESSES, CommandTarget, Limits, Target
from leaktrace.targets.process import is_running, program_of
from leaktrace.targets.selection import processes_in_cgroup, processes_named

# Probably meant as seconds, even if it is also the id of a process.
_USUAL_INTERVAL_S = 60
_LONG_INTERVAL_S = 3600
_NAMES = ("-p", "--pid")


# Which processes are traced.
process_options = together(
    click.option(
        "-p",
        "--pid",
        type=ProcessIds(),
        multiple=True,
        metavar="PID",
        help="Trace this running process. Several: -p 12,13, or -p 12 -p 13, or -p $(pidof nginx).",
    ),
    click.option(
        "--name",
        type=Pattern(),
        metavar="REGEX",
        help="Trace every running process whose name, or whose program's file name, this "
        "regular expression matches.",
    ),
    click.option(
        "--cgroup",
        multiple=True,
        metavar="PATH",
        help="Trace every process of a control group: of a container, a systemd unit or a "
        "pod. PATH is a directory below /sys/fs/cgroup, a path as in /proc/PID/cgroup, or a "
        "name (nginx.service).",
    ),
    click.option(
        "--follow/--no-follow",
        default=None,
        help="Also trace the processes that a traced one starts from now on, and theirs. A "
        "command that leaktrace starts is followed unless --no-follow is given. A child is "
        "traced some tens of milliseconds after its start: what it allocates before that is "
        "not seen.",
    ),
    click.option(
        "--max-processes",
        type=WholeNumber(1, MAX_PROCESSES),
        default=Limits.max_processes,
        show_default=True,
        metavar="N",
        help="Trace at most N processes at a time. Children beyond that are counted.",
    ),
)


def with_all_processes(args: Sequence[str]) -> list[str]:
    """The words of the command line, with the process ids that follow that of -p made part of it.

    A number is taken as a process id if such a process runs the same program as the one before,
    and it is no usual interval: above 60, or followed by another such process.
    """
    for at, word in enumerate(args):
        value = at if word.startswith(("-p", "--pid=")) and word not in _NAMES else at + 1
        if not word.startswith(("-p", "--pid")) or value >= len(args):
            continue
        first = args[value].removeprefix("--pid=").removeprefix("-p").rpartition(",")[2]
        if not first.isdecimal():
            continue
        more = _processes_after(int(first), args[value + 1 :])
        if more:
            pids = ",".join(more)
            notify(f"{pids} run the same program: they are traced, too (-p {first},{pids})")
            return [*args[:value], f"{args[value]},{pids}", *args[value + 1 + len(more) :]]
    return list(args)


def _processes_after(first: int, words: Sequence[str]) -> list[str]:
    twins: list[str] = []
    for word in words:
        if not (word.isascii() and word.isdecimal() and _is_twin(int(word), first)):
            break
        twins.append(word)
    if len(twins) == 1 and int(twins[0]) <= _USUAL_INTERVAL_S:
        return []
    return twins


def processes_of(asked: dict[str, Any]) -> tuple[int, ...]:
    """All processes that -p, --name and --cgroup name, each once.

    Raises UsageError when there are more than --max-processes, TargetError for a name or a control
    group without processes.
    """
    pids = [pid for some in asked["pid"] for pid in some]
    if asked["name"] is not None:
        pids += processes_named(asked["name"])
    for path in asked["cgroup"]:
        pids += processes_in_cgroup(path)
    different = tuple(dict.fromkeys(pids))
    most = asked["max_processes"]
    if len(different) > most:
        raise UsageError(
            f"{len(different):,} processes are more than --max-processes {most:,}",
            f"name fewer, or give --max-processes {len(different)}",
        )
    note_process_as_interval(different[0], asked["interval"])
    return different


def refuse_tasks_as_interval(
    pid: int, interval: Seconds, count: int | None, option: str = "--task"
) -> None:
    """`option` takes one process: raise UsageError if the words after it are others of its program,
    as $(pidof worker) gives them."""
    other = int(interval)
    if interval.is_plain and _is_twin(other, pid):
        both = count is not None and count != other and _is_twin(count, pid)
        if other > _USUAL_INTERVAL_S or both:
            raise UsageError(
                f"{other} is a process of the same program as {pid}, and {option} takes one "
                "process",
                f"start one leaktrace for each; for an interval of {other} s, write {other}.0",
            )
    note_process_as_interval(pid, interval)


def names_a_process(interval: Seconds) -> bool:
    """Whether a number that stands for an interval is the id of a process."""
    return interval.is_plain and interval > _USUAL_INTERVAL_S and is_running(int(interval))


def note_process_as_interval(pid: int, interval: Seconds) -> None:
    """Say that a number after this process id, which may be another process, is an interval."""
    other = int(interval)
    if not interval.is_plain or not is_running(other):
        return
    if _is_twin(other, pid):
        notify(f"{other} is taken as the interval in seconds; process {other} is not traced")
    elif other > _LONG_INTERVAL_S:
        every = units.interval(interval)
        notify(f"{other} is taken as the interval ({every}), not as a process id")


def follows(asked: dict[str, Any], target: Target) -> bool:
    """Whether the children of traced processes are traced, too."""
    given: bool | None = asked["follow"]
    return isinstance(target, CommandTarget) if given is None else given


def _is_twin(other: int, pid: int) -> bool:
    """Whether this is another process of the same program (pidof(1) names none twice)."""
    try:
        return other != pid and program_of(other) == program_of(pid)
    except TargetError:
        return False
