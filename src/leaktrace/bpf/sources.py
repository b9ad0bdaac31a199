"""The BPF sources: where they are, and how fragments become one program text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from leaktrace.errors import ProgramError


def source_directory() -> Path:
    """The folder of the BPF sources: inside the installed package, or next to src/ in a checkout.

    Raises ProgramError when they are missing.
    """
    here = Path(__file__).resolve().parent
    for folder in (here / "c", here.parents[2] / "bpf"):
        if (folder / "process" / "types.h").is_file():
            return folder
    raise ProgramError(
        "the BPF sources of leaktrace are missing from its installation",
        "reinstall leaktrace",
    )


def source_text(fragments: Sequence[str]) -> str:
    """The whole program. bcc rewrites map accesses only in its main text, never in an #include,
    so the fragments are joined. With `#line` the compiler's messages name the fragments."""
    folder = source_directory()
    parts = ["#include <uapi/linux/ptrace.h>\n"]
    for name in fragments:
        parts.append(f'#line 1 "bpf/{name}"\n{(folder / name).read_text()}')
    return "".join(parts)


def flags(knobs: Mapping[str, int]) -> list[str]:
    """Knobs as compiler options."""
    return [
        f"-D{name}={value}{'ULL' if value > 0x7FFFFFFF else ''}" for name, value in knobs.items()
    ]
