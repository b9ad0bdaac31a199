"""How a process ended, in words."""

from __future__ import annotations

import signal

from leaktrace.model import TARGET_ENDED, Ending, Report


def final_reason_in_words(report: Report) -> str:
    """Why a final report is the last one, and how the target ended, if it has."""
    reason = report.reason
    if report.ending is None:
        return reason
    ended = ending_in_words(report)
    return ended if reason in ("", TARGET_ENDED) else f"{reason}; {ended}"


def ending_in_words(report: Report) -> str:
    """ "process 4242 ended with status 3", "process 4242 ended"; "" while it runs."""
    ending, who = report.ending, f"process {report.target.pid}"
    if ending is None:
        return ""
    if ending.by_oom_killer:
        return f"{who} was killed by the OOM killer (out of memory)"
    if ending.signal is not None:
        return f"{who} was killed by signal {ending.signal}{_name_of(ending.signal)}"
    return f"{who} ended" + ("" if ending.status is None else f" with status {ending.status}")


def ending_in_short(ending: Ending | None) -> str:
    """ "ended: exit 3", "ended: killed by SIGKILL", and "ended" if it is unknown how."""
    if ending is None or ending == Ending():
        return "ended"
    if ending.signal is None:
        return f"ended: exit {ending.status}"
    if ending.by_oom_killer:
        return "ended: killed by the OOM killer"
    name = _name_of(ending.signal).strip(" ()")
    return f"ended: killed by {name or f'signal {ending.signal}'}"


def _name_of(number: int) -> str:
    try:
        return f" ({signal.Signals(number).name})"
    except ValueError:  # a real-time signal
        return ""
