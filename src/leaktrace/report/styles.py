"""Colours that parts of the text report share."""

from __future__ import annotations


def change_style(change_bytes: int) -> str:
    """The colour of a change of memory."""
    return "red" if change_bytes > 0 else "green" if change_bytes < 0 else ""
