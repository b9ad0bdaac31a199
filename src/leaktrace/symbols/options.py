"""How far symbolization goes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SymbolOptions:
    """What is looked up for an address beyond the function it lies in."""

    lines: bool = True  # source file and line, from debug information
    inlines: bool = True  # the inlined functions at an address, each a frame of its own
    debug_timeout_s: float = 60.0  # for reading the debug information of one object
    download_timeout_s: float = 15.0  # without a byte from a debuginfod server
    download_deadline_s: float = 300.0  # for a whole answer
